"""A survey of a source whose texts are read as they are written: numbers and times among them.

Formats are found in the sample of a first pass, and hold if a second one finds every cell
written so. Most tables have none, and are read once.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from data.guesses import is_named_apart
from data.shards import Mapper
from data.sources import Source
from data.survey import Survey, survey
from data.written import but_for_few, format_of, formats_in, nearly_in, read_as

QUANTITIES = ("continuous", "positive", "count", "timestamp")
Formats = Mapping[str, str]  # of columns


class Surveyed(NamedTuple):
    """What was seen of a source, and how its columns of text are written.

    `nearly` says of columns that stay text what keeps them from a format.
    """

    seen: Survey
    formats: Formats
    nearly: Mapping[str, str]


def surveyed(
    source: Source,
    mapper: Mapper = map,
    *,
    said: Formats,
    texts: Collection[str | None] | None = (),
) -> Surveyed:
    """Look at all rows of a source.

    Args:
        source: what to read.
        mapper: what looks at the batches.
        said: formats that are known; a cell that is written otherwise is null here.
        texts: columns that stay text; None: all whose format is not known.
    """
    seen, _ = _seen(source, said, mapper)
    if texts is None:
        return Surveyed(seen, said, {})
    candidates = [
        field.name
        for field in seen.schema
        if pa.types.is_string(field.type)
        and field.name not in texts
        and not is_named_apart(field.name)
    ]
    found = formats_in(seen.sample, candidates)
    nearly = nearly_in(seen.sample, [name for name in candidates if name not in found])
    while found:
        again, unread = _seen(source, {**said, **found}, mapper)
        if not unread & found.keys():
            return Surveyed(again, {**said, **found}, nearly)
        nearly |= {name: but_for_few(found[name]) for name in found.keys() & unread}
        found = {name: found[name] for name in found.keys() - unread}
    return Surveyed(seen, said, nearly)


def stays_text(settings: Mapping[str, Any]) -> bool:
    """Whether a person's settings of a column leave no number or time to look for in its text."""
    return "dtype" in settings or settings.get("kind", "continuous") not in QUANTITIES


def _seen(source: Source, formats: Formats, mapper: Mapper) -> tuple[Survey, set[str]]:
    """Survey a source; and the columns of which a cell could not be read."""
    schema, unread = source.schema, set[str]()
    places = {
        k: formats[field.name]
        for k, field in enumerate(schema)
        if field.name in formats and pa.types.is_string(field.type)
    }
    for k, said in places.items():
        schema = schema.set(k, schema.field(k).with_type(format_of(said).type))

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in source.batches():
            columns = batch.columns
            for k, said in places.items():
                columns[k], bad = read_as(columns[k], said)
                if bad.true_count:
                    unread.add(schema.field(k).name)
            yield pa.record_batch(columns, schema=schema) if places else batch

    return survey(batches(), schema, mapper), unread
