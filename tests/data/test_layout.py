from pathlib import Path

import pytest

from data.formats import SourceError
from data.layout import format_of, is_hidden, matches, partitions

NAMES = ("a.csv", "b/a.csv", "b/c.parquet", "b/d/a.csv", "year=1/x.csv", ".a/b.csv")
PATTERNS = (
    "*",
    "*.csv",
    "b/*",
    "b/*.csv",
    "*/*.csv",
    "**/*.csv",
    "b/**/*.csv",
    "year=[12]/*",
    "?.csv",
)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_means_what_it_means_on_a_disk(tmp_path: Path, pattern: str) -> None:
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    found = {p.relative_to(tmp_path).as_posix() for p in tmp_path.glob(pattern) if p.is_file()}
    assert {name for name in NAMES if matches(name, pattern)} == found


def test_names_say_what_is_hidden_and_how_rows_are_partitioned() -> None:
    assert [name for name in ("a", ".a", "_a", "b/_a/c", "b_/a") if is_hidden(name)] == [
        ".a",
        "_a",
        "b/_a/c",
    ]
    assert partitions(["k=0%20/a", "k=__HIVE_DEFAULT_PARTITION__/a"]) == [
        {"k": "0 "},
        {"k": None},
    ]
    with pytest.raises(SourceError, match=r"b/a is partitioned by \[\], k=1/a by \['k'\]"):
        partitions(["k=1/a", "b/a"])


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["a.parquet", "manifest.json", "README.txt"], ".parquet"),
        (["a.json", "README.txt"], ".json"),
        (["iris.data", "Index.txt"], ".data"),
        (["a.png", "annotations.json"], "pictures"),
        (["a.txt", "b.txt"], ".txt"),
        (["a.csv.gz", "b.csv"], ".csv"),
    ],
)
def test_notes_may_lie_beside_the_data(names: list[str], kind: str) -> None:
    assert format_of("here", names) == kind


def test_files_are_of_one_format() -> None:
    assert format_of("here", ["a.parquet", "b.PARQUET", "notes.txt"]) == ".parquet"
    with pytest.raises(
        SourceError, match=r"here holds files of several formats \(1 .csv, 1 pictures"
    ):
        format_of("here", ["a.csv", "b.png"])
