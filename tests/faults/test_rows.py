"""Every promise of RELIABILITY and every row of its tables 2a and 2c, with the tests that try it.

Or why none does here. Tables 2b and 2d are in `test_data_rows` and `test_doors_text`.
"""

import importlib

import pytest

PROMISES = {
    "I1 readers": ["faults.test_promises.test_i1_a_reader_never_sees_half_a_publication"],
    "I2 killed": ["faults.test_promises.test_i2_killed_and_run_again_publishes_the_same_bytes"],
    "I3 training": [
        "faults.test_promises.test_i3_a_training_is_a_function_of_its_settings",
        "faults.test_training_killed.test_kill_9_between_two_steps",
    ],
    "I4 once": ["faults.test_promises.test_i4_the_same_job_twice_publishes_once"],
    "I5 files": ["faults.test_promises.test_i5_published_files_never_change"],
    "I6 rows": [
        "faults.test_promises.test_i6_each_row_once_in_its_order_or_nothing",
        "faults.test_silence.test_counts_of_a_publication_add_up_to_the_rows_that_went_in",
    ],
    "I7 values": [
        "faults.test_promises.test_i7_no_infinity_enters_and_none_leaves",
        "faults.test_silence.test_every_cell_that_changed_is_in_one_count",
    ],
    "I8 models": ["faults.test_promises.test_i8_a_changed_byte_is_refused_before_it_is_parsed"],
    "I9 names": ["faults.test_promises.test_i9_no_name_leaves_its_root"],
    "I10 secrets": ["faults.test_promises.test_i10_no_secret_in_an_error"],
}
TRAINING = {
    "NaN/Inf loss or gradient": [
        "vae_engine.test_training.test_a_number_that_is_not_finite_stops_before_the_step_and_says_where"
    ],
    "exploding loss": [
        "faults.test_silence.test_what_diverges_is_not_registered",
        "flows.test_rewind.test_a_training_that_explodes_goes_on_at_a_tenth_of_its_rate",
        "flows.test_rewind.test_a_second_explosion_ends_it",
    ],
    "posterior collapse": [
        "faults.test_silence.test_a_collapsed_posterior_is_registered_and_not_published"
    ],
    "decoder variance -> 0": [
        "vae_engine.test_likelihoods.test_a_constant_column_does_not_make_the_density_grow_without_limit"
    ],
    "marginal likelihood estimate": [
        "vae_engine.test_marginal.test_the_estimate_rises_to_the_marginal"
    ],
    "GPU OOM": ["vae_engine.test_memory.test_a_step_in_parts_is_the_step_of_the_whole_batch"],
    "inf in metrics": ["faults.test_silence.test_no_metric_is_infinite"],
}
ROWS = {
    "kill -9 in ingest": ["faults.test_killed.test_kill_9_in_ingest"],
    "kill -9 in train": [
        "faults.test_training_killed.test_kill_9_in_train",
        "faults.test_training_killed.test_kill_9_between_two_steps",
        "faults.test_training_killed.test_kill_9_in_a_checkpoint",
        "flows.test_resume.test_killed_and_run_again_ends_in_the_same_weights",
    ],
    "kill -9 in encode": [
        "faults.test_killed.test_kill_9_in_encode",
        "faults.test_machine.test_any_order_of_events",
    ],
    "kill -9 between publish and register": [
        "faults.test_killed.test_kill_9_in_register",
        "faults.test_killed.test_kill_9_in_a_publication",
    ],
    "commit done, process died before knowing": [
        "faults.test_twins.test_commit_done_but_the_process_died_before_knowing"
    ],
    "power loss": [
        "faults.test_power_loss.test_power_loss_bytes_come_before_their_name",
        "faults.test_power_loss.test_power_loss_names_are_synced_in_the_end",
        "faults.test_power_loss.test_power_loss_the_pointer_comes_last",
    ],
    "disk full": [
        "faults.test_disk_full.test_disk_full_in_ingest",
        "faults.test_disk_full.test_disk_full_in_packing",
        "faults.test_disk_full.test_disk_full_in_encode",
    ],
    "disk full on checkpoint/log": [
        "faults.test_disk_full.test_disk_full_on_checkpoint_and_log"
    ],
    "torn/corrupt part": [
        "faults.test_torn.test_a_torn_part_in_staging_is_written_anew",
        "faults.test_torn.test_a_torn_published_part_is_refused",
        "faults.test_torn.test_a_torn_part_of_a_snapshot_is_not_trained_on",
    ],
    "two runs publish the same set": [
        "faults.test_twins.test_two_runs_publish_the_same_set",
        "flows.test_registry.test_twins_make_one_publication_and_one_version",
    ],
    "two runs, different models": [
        "faults.test_twins.test_two_runs_with_different_models_are_both_published"
    ],
    "MLflow down/slow": [
        "faults.test_registry.test_mlflow_down_or_slow",
        "faults.test_registry.test_mlflow_cut_off_in_the_middle",
        "flows.test_registry.test_trained_while_the_registry_is_down_it_is_registered_later",
    ],
    "MLflow sqlite locked": ["faults.test_registry.test_mlflow_sqlite_locked"],
    "Prefect server lost": [
        "faults.test_orchestrator.test_prefect_server_lost_in_the_middle",
        "faults.test_orchestrator.test_prefect_server_lost_before_the_run",
        "faults.test_orchestrator.test_prefect_server_that_says_nothing",
    ],
    "flow killed": [
        "faults.test_orchestrator.test_flow_killed_is_told_by_its_silence",
        "faults.test_soak.test_soak",
        "flows.test_deployments.test_a_killed_run_is_crashed_and_the_next_one_goes_on",
        "flows.test_deployments.test_runs_whose_worker_is_gone_are_marked_and_others_are_left",
    ],
    "worker cancelled (SIGTERM then KILL)": [
        "faults.test_training_killed.test_worker_cancelled_sigterm_then_kill",
        "flows.test_stopping.test_terminated_it_saves_says_so_and_resumes",
    ],
    "stale lock": ["faults.test_twins.test_stale_lock"],
    "clock skew/backwards": ["faults.test_clock.test_clock"],
    "registry alias race": [
        "faults.test_registry.test_registry_alias_race",
        "faults.test_twins.test_twins_move_the_pointer_without_losing_a_version",
    ],
    "interrupted download": ["data.test_remote", "data.test_streamed", "data.test_web"],
    "NFS / no hardlinks": [
        "faults.test_stores.test_no_hard_links",
        "faults.test_stores.test_neither_hard_links_nor_exclusive_rename",
    ],
    "gc while reading": ["faults.test_stores.test_gc_while_reading"],
    "S3: no rename": [
        "faults.test_object_store.test_s3_no_rename",
        "faults.test_object_store.test_two_machines_publish_once",
        "faults.test_object_store.test_kill_9_in_train_on_another_machine",
    ],
    "store lacks conditional put": [
        "faults.test_object_store.test_store_lacks_conditional_put"
    ],
    "old reader, new writer": [
        "faults.test_stores.test_newer_files_are_refused",
        "faults.test_stores.test_a_field_that_we_do_not_know_is_passed_over",
    ],
    "new reader, old files": ["faults.test_stores.test_old_files_are_read"],
}
NOT_HERE = {
    "power loss, writes lost for real": "dm-log-writes needs a block device and root",
}
TRIED = PROMISES | ROWS | TRAINING


@pytest.mark.parametrize("row", TRIED)
def test_the_row_is_tried(row: str) -> None:
    for name in TRIED[row]:
        module, _, test = name.rpartition(".")
        if test.startswith("test_") and module.rpartition(".")[2].startswith("test_"):
            assert callable(getattr(importlib.import_module(f"tests.{module}"), test))
        else:
            importlib.import_module(f"tests.{name}")
