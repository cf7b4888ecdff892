"""Every row of RELIABILITY's table 2a, with the tests that try it, or why none does here."""

import importlib

import pytest

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
    "interrupted download": ["data.test_remote"],
    "NFS / no hardlinks": [
        "faults.test_stores.test_no_hard_links",
        "faults.test_stores.test_neither_hard_links_nor_exclusive_rename",
    ],
    "gc while reading": ["faults.test_stores.test_gc_while_reading"],
    "old reader, new writer": [
        "faults.test_stores.test_newer_files_are_refused",
        "faults.test_stores.test_a_field_that_we_do_not_know_is_passed_over",
    ],
    "new reader, old files": ["faults.test_stores.test_old_files_are_read"],
}
NOT_HERE = {
    "power loss, writes lost for real": "dm-log-writes needs a block device and root",
    "S3: no rename": "homes in object storage have tests of their own, in tests/data",
    "store lacks conditional put": "the same",
}


@pytest.mark.parametrize("row", ROWS)
def test_the_row_is_tried(row: str) -> None:
    for name in ROWS[row]:
        module, _, test = name.rpartition(".")
        if test.startswith("test_") and module.rpartition(".")[2].startswith("test_"):
            assert callable(getattr(importlib.import_module(f"tests.{module}"), test))
        else:
            importlib.import_module(f"tests.{name}")
