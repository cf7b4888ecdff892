from pathlib import Path

import pyarrow as pa
import pytest

from data.formats import SourceError
from data.sources import open_source


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "t.jsonl"


def cells(path: Path) -> list[object]:
    source = open_source(path)
    return list(pa.Table.from_batches(source.batches(), source.schema)["a"].to_pylist())


@pytest.mark.parametrize("giant", [2**63, -(2**63) - 1, 10**30])
def test_integers_beyond_int64_are_refused_and_not_rounded(path: Path, giant: int) -> None:
    """Arrow makes a double of them, and of their column, in silence."""
    path.write_text(f'{{"a": 1}}\n{{"a": {giant}, "b": 1}}\n')

    with pytest.raises(SourceError) as caught:
        cells(path)
    assert str(caught.value) == (
        f"{path}: column 'a' holds integers beyond int64, which a float would round; "
        f"keep them as text, in quotes"
    )


def test_numbers_that_are_written_as_floats_may_be_large(path: Path) -> None:
    path.write_text('{"a": 1e20}\n\n{"a": -9223372036854775808}\n')

    assert cells(path) == [1e20, -(2.0**63)]


@pytest.mark.parametrize("deep", ["[" * 200_000 + "]" * 200_000, '{"a":' * 200_000 + "1"])
def test_brackets_without_end_take_the_child_and_not_us(path: Path, deep: str) -> None:
    path.write_text(f'{{"a": {deep}}}\n')

    with pytest.raises(SourceError, match=r"t\.jsonl (ends its reader|cannot be read)"):
        cells(path)


def test_text_that_is_no_text_is_refused(path: Path) -> None:
    path.write_bytes(b'{"a": "\xff"}\n')

    with pytest.raises(SourceError, match="Invalid UTF8"):
        cells(path)


def test_a_name_that_is_no_text_is_refused(path: Path) -> None:
    path.write_bytes(b'{"\xff": "a"}\n')

    with pytest.raises(SourceError, match=r"t\.jsonl cannot be read: 'utf-8' codec"):
        cells(path)
