"""`latents features NAME --to postgresql://…`: a publication as a table that SQL reads.

One table holds one publication, whole: it is filled beside the one that readers see and takes
its name in the same transaction, so that nobody reads half of it, or two models mixed. The
table's comment says which publication it holds; copying that one again does nothing.
"""

from collections.abc import Iterator
from io import BytesIO
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pv
from psycopg import sql

from data.features import Features, open_features
from flows.redaction import redacted, scrubbed
from flows.settings import Home

BATCH_ROWS = 65_536


class DatabaseError(RuntimeError):
    """The database cannot be reached, or refuses."""


def copy_features(home: Home, name: str, address: str) -> dict[str, Any]:
    """Copy the champion's latest publication of `name` into the table of that name.

    What `address` leaves out comes from PGUSER, PGPASSWORD, ~/.pgpass and the like.

    Raises:
        NotPublishedError: there are no such features.
        DatabaseError: the database cannot be reached, or refuses.
    """
    features = open_features(name, home=home.address)
    publication = features.path.name.partition("=")[2]
    table = sql.Identifier(name)
    try:
        with psycopg.connect(address) as connection:
            reused = _held(connection, name) == publication
            if not reused:
                _replace(connection, table, features, publication)
    except psycopg.Error as error:
        what = scrubbed(str(error), address)
        raise DatabaseError(f"{redacted(address)}: {what}") from None
    return {
        "table": name,
        "database": redacted(address),
        "publication": publication,
        "model_version": features.manifest["model"]["version"],
        "rows": features.rows,
        "reused": reused,
    }


def _held(connection: psycopg.Connection[Any], name: str) -> str | None:
    """The publication that the table of this name holds; None without one."""
    row = connection.execute(
        "select obj_description(to_regclass(%s), 'pg_class')", [f'"{name}"']
    ).fetchone()
    return None if row is None or row[0] is None else str(row[0]).partition(" ")[2]


def _replace(
    connection: psycopg.Connection[Any],
    table: sql.Identifier,
    features: Features,
    publication: str,
) -> None:
    fresh = sql.Identifier(f"{table.as_string(None).strip(chr(34))} {publication}")
    columns = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(field.name), sql.SQL(_type(field.type)))
        for field in features.schema
    )
    run = connection.execute
    run(sql.SQL("drop table if exists {}").format(fresh))
    run(sql.SQL("create table {} ({})").format(fresh, columns))
    copy = sql.SQL("copy {} from stdin (format csv)").format(fresh)
    with connection.cursor() as cursor, cursor.copy(copy) as sink:
        for text in _csv(features):
            sink.write(text)
    key = sql.Identifier(features.schema.names[0])
    run(sql.SQL("alter table {} add primary key ({})").format(fresh, key))
    comment = sql.Literal(f"latent-features {publication}")
    run(sql.SQL("comment on table {} is {}").format(fresh, comment))
    run(sql.SQL("drop table if exists {}").format(table))
    run(sql.SQL("alter table {} rename to {}").format(fresh, table))


def _type(arrow: pa.DataType) -> str:
    """The column type of PostgreSQL that holds every value of an Arrow type."""
    if pa.types.is_dictionary(arrow):
        return _type(arrow.value_type)
    if pa.types.is_fixed_size_list(arrow) or pa.types.is_list(arrow):
        return f"{_type(arrow.value_type)}[]"
    if pa.types.is_timestamp(arrow):
        return "timestamptz" if arrow.tz else "timestamp"
    if pa.types.is_decimal(arrow):
        return f"numeric({arrow.precision}, {arrow.scale})"
    known = {
        pa.bool_(): "boolean",
        pa.float16(): "real",
        pa.float32(): "real",
        pa.float64(): "double precision",
        pa.uint64(): "numeric(20)",
        pa.int64(): "bigint",
        pa.uint32(): "bigint",
        pa.date32(): "date",
    }
    if arrow in known:
        return known[arrow]
    return "integer" if pa.types.is_integer(arrow) else "text"


def _csv(features: Features) -> Iterator[bytes]:
    """The rows as CSV, batch by batch: absent values are empty, empty texts are quoted."""
    options = pv.WriteOptions(include_header=False)
    for batch in features.batches(BATCH_ROWS):
        columns = [_plain(column) for column in batch.columns]
        buffer = BytesIO()
        pv.write_csv(pa.table(columns, names=batch.schema.names), buffer, options)
        yield buffer.getvalue()


def _plain(column: pa.Array) -> pa.Array:
    """A column that CSV can hold: no dictionaries; a list is written as PostgreSQL reads it."""
    if pa.types.is_dictionary(column.type):
        return column.dictionary_decode()
    if pa.types.is_fixed_size_list(column.type):
        entries = column.cast(pa.list_(pa.string()))
        inside = pc.binary_join(entries, ",")
        return pc.binary_join_element_wise("{", inside, "}", "")
    return column
