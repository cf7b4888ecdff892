"""Publications looked after from the command line: verified, compared, cleared, backfilled."""

import json
import os
import shutil
import time
from pathlib import Path

from data.features import latest_of, open_features
from tests.flows.conftest import Finished, latents


def test_a_publication_is_verified_byte_by_byte(finished: Finished) -> None:
    done = latents("features", "digits", "--verify", "--json", home=finished.home)

    assert json.loads(done.stdout)["verified"]


def test_a_version_encodes_on_request_and_two_publications_are_compared(
    finished: Finished,
) -> None:
    before = latest_of(finished.home / "features", "digits")["champion"]

    done = latents(
        *("encode", finished.source, "--model-version", "1", "--json"),
        *("--set", "encoding.batch_rows=64"),
        home=finished.home,
    )
    made = json.loads(done.stdout)["publication"]
    shown = latents("features", "digits", "--diff", made["id"], "--json", home=finished.home)

    assert latest_of(finished.home / "features", "digits")["champion"] == before
    assert made["model_version"] == 1
    assert made["id"] != before["publication"]
    found = json.loads(shown.stdout)
    assert (found["added"], found["removed"]) == (0, 0)
    assert max(found["columns"].values(), default=0.0) < 1e-5
    assert open_features("digits", home=finished.home).rows == 1797


def test_a_version_that_is_not_there_is_said(finished: Finished) -> None:
    done = latents("encode", finished.source, "--model-version", "9", home=finished.home)

    assert done.returncode == 2
    assert "has no version 9; it has 1" in " ".join(done.stderr.split())


def test_what_a_dead_writer_left_is_removed(finished: Finished) -> None:
    left = finished.home / "features" / ".staging" / "0123456789abcdef"
    (left / "data").mkdir(parents=True)
    (left / "data" / "part-00000.parquet").write_bytes(bytes(1000))
    long_ago = time.time() - 2 * 86_400
    for path in (left / "data" / "part-00000.parquet", left / "data", left):
        os.utime(path, (long_ago, long_ago))

    done = latents("features", "--gc", "--json", home=finished.home)

    assert json.loads(done.stdout) == {"removed": 1, "bytes": 1000}
    assert not left.exists()


def test_superseded_publications_go_on_request_once_their_readers_had_a_day(
    finished: Finished, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    shutil.copytree(finished.home / "features", home / "features")
    latest = open_features("digits", home=home).path
    old = [latest.with_name(f"publication={name * 16}") for name in "abc"]
    for age, path in enumerate(old, 2):
        shutil.copytree(latest, path)
        then = time.time() - age * 86_400
        os.utime(path, (then, then))

    def cleared(*options: str) -> int:
        done = latents("features", "--gc", *options, "--json", home=home)
        return int(json.loads(done.stdout)["removed"])

    assert cleared() == 0
    assert cleared("--keep", "1") == 2
    assert [path.exists() for path in old] == [True, False, False]
    assert open_features("digits", home=home, verify=True).rows == 1797


def test_what_needs_a_name_says_so(tmp_path: Path) -> None:
    done = latents("features", "--verify", home=tmp_path)

    assert done.returncode == 2
    assert "latents features NAME" in done.stderr
