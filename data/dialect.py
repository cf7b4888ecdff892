"""How a text table is written, found out once: encoding, delimiter, decimal mark."""

import codecs
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from data.contract import CsvDialect, SpecError, refuse_unknown

BLOCK_BYTES = 4 << 20  # where the decimal mark is looked for
SAMPLE_BYTES = 64 << 10  # that the delimiter is told by
DELIMITERS = ",;\t|"
QUOTED = re.compile(r'"[^"]*"')


def found_dialect(path: Path, given: Mapping[str, str]) -> tuple[CsvDialect, frozenset[str]]:
    """Return the dialect of a file, and which of its properties the file leaves no doubt of.

    What is given is taken as it is.

    Raises:
        SpecError: a given property is unknown.
    """
    refuse_unknown(given, [field.name for field in fields(CsvDialect)], where="csv")
    try:
        codecs.lookup(given.get("encoding", "utf-8"))
    except LookupError as error:
        raise SpecError(f"csv.encoding: {error}") from None
    encoding, certain = (given["encoding"], True) if "encoding" in given else _encoding(path)
    sure = {"encoding"} if certain else set()
    with path.open("rb") as file:
        start = file.read(BLOCK_BYTES)
    lines = QUOTED.sub("", start[:SAMPLE_BYTES].decode(encoding, "replace")).splitlines()
    delimiter = given.get("delimiter") or _delimiter(lines)
    if lines and delimiter in lines[0]:
        sure.add("delimiter")
    decimal = given.get("decimal") or _decimal(start.decode(encoding, "replace"), delimiter)
    if decimal is not None:
        sure.add("decimal")
    return CsvDialect(encoding, delimiter, decimal or "."), frozenset(sure)


def _encoding(path: Path) -> tuple[str, bool]:
    """Return UTF-8 or UTF-16 where the bytes are that, else a one-byte encoding.

    Plain ASCII is UTF-8 without being sure: any encoding may turn up in a later file.
    """
    with path.open("rb") as file:
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
    with path.open("rb") as file:
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


def _delimiter(lines: list[str]) -> str:
    """The mark that every line has equally often; else the one that the header has most."""
    header, rest = (lines[0], lines[1:-1]) if lines else ("", [])

    def rank(mark: str) -> tuple[bool, int]:
        count = header.count(mark)
        return bool(count) and all(line.count(mark) == count for line in rest), count

    return max(DELIMITERS, key=rank)


def _decimal(text: str, delimiter: str) -> str | None:
    """The mark before the fraction of numbers, if there is a number that has one."""
    if delimiter == ",":
        return None
    edge, blanks = re.escape(delimiter), "" if delimiter == " " else " *"
    cell = rf'(?:^|{edge})"?{blanks}[+-]?\d+%s\d+{blanks}"?(?={edge}|\r?$)'
    counts = {
        mark: sum(1 for _ in re.finditer(cell % re.escape(mark), text, re.MULTILINE))
        for mark in ",."
    }
    best = max(",.", key=lambda mark: counts[mark])
    return best if counts[best] else None
