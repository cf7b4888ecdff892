"""How a text table is written, found out once.

The encoding, the mark between cells, the mark before the fraction of a number, whether there is a
line of names, and what stands for a number that is missing. A blank between cells stands for any
number of them, and of tabs; it is looked for where the name does not say that it is CSV.
"""

import codecs
import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from itertools import count, zip_longest
from pathlib import Path
from typing import Any

from data.contract import SpecError, refuse_unknown
from data.csv_dialect import CsvDialect
from data.header import MOSTLY, found_header, number_of
from data.packed import bare, unpacked
from data.preamble import lines_before

BLOCK_BYTES = 4 << 20  # where the decimal mark and marks of missing numbers are looked for
SAMPLE_BYTES = 64 << 10  # that the delimiter and the names are told by
DELIMITERS = ",;\t|"
BLANK = " "
MARKS = ("?", ".", "-", "--", "*", "None")  # of numbers that are missing, beside those of Arrow
QUOTED = re.compile(r'"[^"]*"')
KINDS = {"header": bool, "skip": int, "row_names": bool, "nulls": list}  # others are text
CSV = (".csv", ".tsv", ".tab")
PLAIN = (".txt", ".data", ".dat")  # text that may be a table
ROWS = "rownames"  # as R calls them


def found_dialect(path: Path, given: Mapping[str, Any]) -> tuple[CsvDialect, frozenset[str]]:
    """Return the dialect of a file, and which of its properties the file leaves no doubt of.

    What is given is taken as it is.

    Raises:
        SpecError: a given property is unknown, or of a wrong type.
    """
    _refuse_wrong(given)
    encoding, certain = (given["encoding"], True) if "encoding" in given else _encoding(path)
    sure = {"encoding"} if certain else set()
    with unpacked(path) as file:
        start = file.read(BLOCK_BYTES)
    text = start.decode(encoding, "replace").removeprefix("\ufeff")
    skip = given.get("skip", _lines_before(text[:SAMPLE_BYTES], path, given.get("delimiter")))
    text = _without(text, skip)
    lines = QUOTED.sub("_", text[:SAMPLE_BYTES]).splitlines()
    delimiter = given.get("delimiter") or _delimiter(lines, may_be_blank=not _is_csv(path))
    if lines and delimiter in lines[0]:
        sure.add("delimiter")
    decimal, is_told = (
        (given["decimal"], True) if "decimal" in given else _decimal(text, delimiter)
    )
    if is_told:
        sure.add("decimal")
    whole = len(start) < BLOCK_BYTES
    cells = _cells(text[:SAMPLE_BYTES], delimiter, whole=whole and len(text) <= SAMPLE_BYTES)
    row_names = given.get("row_names", given.get("header", True) and _have_row_names(cells))
    if len(cells) > 1:
        sure.add("row_names")
    has_names, is_sure = (True, True) if row_names else found_header(cells, decimal or ".")
    if is_sure:
        sure.add("header")
    header = given.get("header", has_names)
    nulls = given.get("nulls")
    if nulls is None:
        nulls = _marks(_cells(text, delimiter, whole=whole), decimal or ".")
    dialect = CsvDialect(
        encoding, delimiter, decimal or ".", header, skip, row_names, tuple(nulls)
    )
    return dialect, frozenset(sure)


def described(path: Path, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The same, in what JSON holds."""
    dialect, sure = found_dialect(path, given)
    return dialect.to_mapping(), sorted(sure)


def names_of(path: Path, dialect: CsvDialect) -> list[str]:
    """The names of the columns of a file with names of rows, one for these among them."""
    with unpacked(path) as file:
        text = file.read(BLOCK_BYTES).decode(dialect.encoding, "replace")
    text = _without(text.removeprefix("\ufeff"), dialect.skip)
    names = _cells(text, dialect.delimiter, whole=True)[0]
    free = next(name for k in count() if (name := ROWS + "_" * k) not in names)
    return [free, *names]


def squeezed(text: bytes) -> bytes:
    """Lines whose cells have one blank between them; what is quoted stays."""
    apart = re.sub(rb'("[^"\n]*")|[ \t]+', lambda found: found[1] or b" ", text)
    return re.sub(rb"(?m)^ | (?=\r?$)", b"", apart)


def _refuse_wrong(given: Mapping[str, Any]) -> None:
    refuse_unknown(given, [field.name for field in fields(CsvDialect)], where="csv")
    for name, value in given.items():
        kind = KINDS.get(name, str)
        if not isinstance(value, kind):
            raise SpecError(f"csv.{name}: {value!r} is no {kind.__name__}")
    if given.get("row_names") and not given.get("header", True):
        raise SpecError("csv.row_names: true goes with header = true")
    try:
        codecs.lookup(given.get("encoding", "utf-8"))
    except LookupError as error:
        raise SpecError(f"csv.encoding: {error}") from None


def _is_csv(path: Path) -> bool:
    return bare(path).suffix.lower() in CSV


def _encoding(path: Path) -> tuple[str, bool]:
    """Return UTF-8 or UTF-16 where the bytes are that, else a one-byte encoding.

    Plain ASCII is UTF-8 without being sure: any encoding may turn up in a later file.
    """
    with unpacked(path) as file:
        start = file.read(4096)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16", True
    if start.startswith(codecs.BOM_UTF8):
        return "utf-8", True
    if start and start.count(0) > len(start) // 4:  # every other byte of Latin text is 0
        return (
            "utf-16-le" if start[1::2].count(0) > start[::2].count(0) else "utf-16-be"
        ), True
    decoder, is_ascii, has_controls = codecs.getincrementaldecoder("utf-8")(), True, False
    is_utf8 = True
    with unpacked(path) as file:
        while block := file.read(BLOCK_BYTES):
            is_ascii = is_ascii and block.isascii()
            if not is_ascii and is_utf8:
                try:
                    decoder.decode(block)
                except UnicodeDecodeError:
                    is_utf8 = False
            has_controls = has_controls or re.search(rb"[\x80-\x9f]", block) is not None
            if not is_utf8 and has_controls:
                break
    if is_utf8:
        return "utf-8", not is_ascii
    return ("cp1252" if has_controls else "latin-1"), True


def _lines_before(text: str, path: Path, delimiter: str | None) -> int:
    """How many lines are before the table: what parts its cells, its later lines tell.

    Unless all lines have equally many of a mark: then that one does.
    """
    lines = QUOTED.sub("_", text).splitlines()
    may_be_blank = not _is_csv(path)
    mark = delimiter or _delimiter(lines, may_be_blank=may_be_blank)
    counts = {line.count(mark) for line in lines[:-1] if line}
    if delimiter is None and (len(counts) > 1 or counts == {0}):
        mark = _delimiter(lines[len(lines) // 2 :], may_be_blank=may_be_blank)
    return lines_before(lines, None if mark == BLANK else mark)


def _without(text: str, lines: int) -> str:
    """The text after its first lines."""
    file = io.StringIO(text, newline="")
    for _ in range(lines):
        file.readline()
    return file.read()


def _delimiter(lines: list[str], *, may_be_blank: bool) -> str:
    """The mark that every line has equally often; else the one that the header has most.

    A blank, where that may be, no mark does it, and all lines have equally many words. Of either
    the header may have one less.
    """
    header, rest = (lines[0], lines[1:-1]) if lines else ("", [])

    def rank(mark: str) -> tuple[bool, int]:
        marks = header.count(mark)
        return bool(marks) and _agree(marks, {line.count(mark) for line in rest}), marks

    best = max(DELIMITERS, key=rank)
    first = len(header.split())
    words = {len(line.split()) for line in rest if line.strip()} or {first}
    if not may_be_blank or not _agree(first, words) or words == {1}:
        return best
    found, marks = rank(best)
    among_blanks = best == "\t" and words == {first} and any(" " in line for line in lines)
    return BLANK if (among_blanks and first > marks) or not found else best


def _agree(first: int, others: set[int]) -> bool:
    """Whether all others are as many as there are first, or one more."""
    return others <= {first} or others == {first + 1}


def _have_row_names(lines: Sequence[Sequence[str]]) -> bool:
    """Whether all rows have a cell more than the line of names, and it is not an empty last."""
    first, *rows = lines or [[]]
    more = bool(rows) and {len(cells) for cells in rows} == {len(first) + 1}
    return more and any(cells[-1] for cells in rows)


def _decimal(text: str, delimiter: str) -> tuple[str | None, bool]:
    """The mark before the fraction of numbers, if there is a number that has one; and whether it is sure.

    A mark before three digits may part thousands, as two of them in a number do: it counts only
    where nothing else tells.
    """
    if delimiter == ",":
        return None, False
    edge, blanks = re.escape(delimiter), "" if delimiter == " " else " *"
    cell = rf'(?:^|{edge})"?{blanks}[+-]?%s{blanks}"?(?={edge}|\r?$)'

    def count(number: str, mark: str) -> int:
        pattern = cell % number.replace("M", re.escape(mark))
        return sum(1 for _ in re.finditer(pattern, text, re.MULTILINE))

    found_by = (
        (True, lambda mark: count(r"(?![1-9]\d{0,2}M\d{3}\b)\d+M\d+", mark)),
        (True, lambda mark: count(r"[1-9]\d{0,2}(?:M\d{3}){2,}", "." if mark == "," else ",")),
        (False, lambda mark: count(r"\d+M\d+", mark)),
    )
    for is_sure, counted in found_by:
        counts = {mark: counted(mark) for mark in ",."}
        if any(counts.values()):
            return max(counts, key=lambda mark: counts[mark]), is_sure
    return None, False


def _cells(text: str, delimiter: str, *, whole: bool) -> list[list[str]]:
    """The cells of the lines of a text, but for its last where that may be cut."""
    if delimiter == BLANK:
        text = squeezed(text.encode()).decode()
    try:
        lines = [
            line
            for line in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
            if line
        ]
    except csv.Error:  # a giant cell, or a NUL: what reads the file says what is wrong
        return []
    return lines if whole else lines[:-1]


def _marks(lines: Sequence[Sequence[str]], decimal: str) -> Iterable[str]:
    """Of the marks of what is missing, those that stand in columns of numbers."""
    found: set[str] = set()
    if not any(cell.strip() in MARKS for cells in lines[1:] for cell in cells):
        return found
    for cells in zip_longest(*lines[1:], fillvalue=""):
        marks = {cell.strip() for cell in cells} & {*MARKS}
        if marks - found:
            known = [cell.strip() for cell in cells if cell.strip() not in marks and cell]
            numbers = sum(number_of(cell, decimal) is not None for cell in known)
            if numbers and numbers >= MOSTLY * len(known):
                found |= marks
    return sorted(found)
