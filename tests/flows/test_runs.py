from pathlib import Path

import pytest

from flows.runs import once, read_metrics


def test_a_stage_is_done_once(tmp_path: Path) -> None:
    record = tmp_path / "run" / "trained.json"
    calls = []

    def work() -> dict[str, int]:
        calls.append(1)
        return {"steps": 3}

    first, second = once("train", record, work), once("train", record, work)

    assert len(calls) == 1
    assert first.value == second.value == {"steps": 3}
    assert (first.status, second.status) == ("ran", "reused")


def test_a_stage_that_fails_leaves_no_record(tmp_path: Path) -> None:
    def work() -> dict[str, int]:
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        once("train", tmp_path / "trained.json", work)

    assert list(tmp_path.iterdir()) == []


def test_a_line_cut_short_by_a_crash_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"ste')

    assert read_metrics(path) == [{"step": 1}, {"step": 2}]
