import json
from pathlib import Path

import pyarrow as pa
import pytest

import data.json_rows
from data.formats import SourceError
from data.quarantine import VARIABLE as QUARANTINE
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


def array(path: Path, text: str) -> Path:
    path = path.with_suffix(".json")
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        '[{"a": 1}, {"a": 2}]',
        '\ufeff [\n  {\n    "a": 1\n  },\n  {\n    "a": 2\n  }\n]\n',
        '{"a": 1}\n{"a": 2}\n',
    ],
)
def test_an_array_of_objects_is_as_good_as_a_line_each(path: Path, text: str) -> None:
    assert cells(array(path, text)) == [1, 2]


def test_objects_cross_the_edges_of_blocks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(QUARANTINE, "off")
    monkeypatch.setattr(data.json_rows, "READ_BYTES", 64)
    monkeypatch.setattr(data.json_rows, "READ_ROWS", 10)
    rows = [{"a": f'{{"[,]\\ \n{"ü" * (n % 60)}', "b": [{"c": n}]} for n in range(200)]

    for indent in (None, 2):
        text = json.dumps(rows, indent=indent, ensure_ascii=False)
        assert cells(array(path, text)) == [row["a"] for row in rows]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"a": 1}, {"a": 2}', "has an object without an end"),
        ('[{"a": 1}, {"a":', "has an object without an end"),
        ('[{"a": 1}] [{"a": 2}]', "is no array of objects alone"),
        ("[1, 2, 3]", "is no array of objects alone"),
        ('{\n  "a": [1, 2]\n}\n', "begins with an object that is no row"),
        ('{"a": {"0": 1, "1": 2}}', "begins with an object that is no row"),
    ],
)
def test_json_that_is_no_rows_is_refused_with_the_way_out(
    path: Path, text: str, said: str
) -> None:
    with pytest.raises(SourceError) as caught:
        cells(array(path, text))
    assert str(caught.value) == (
        f"{path.with_suffix('.json')} {said}; write one object a line, or an array of objects "
        f"(pandas: orient='records')"
    )


@pytest.mark.parametrize("late", [1, 300])
@pytest.mark.parametrize("other", [1776, True, 2.5])
def test_a_column_of_text_and_numbers_is_text(
    path: Path, other: object, late: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Films have titles such as 1776; in one block or in two, for Arrow that is an error."""
    monkeypatch.setenv(QUARANTINE, "off")
    monkeypatch.setattr(data.json_rows, "READ_BYTES", 1000)
    rows = [{"a": "1999-12-31"}] + [{"a": "text"}] * late + [{"a": other}, {"a": None}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    assert cells(path) == ["1999-12-31", *["text"] * late, json.dumps(other), None]
