"""What a database answers to one query, as a file of rows that stays the same.

    sqlite:///relative.db   sqlite:////absolute.db      needs the extra sql
    duckdb:///relative.duckdb                           needs the extra sql
    postgresql://user@host/database                     needs the extra sql

A table is read twice (to survey it, then to keep it) and a live database would answer
differently the second time. So the answer is fetched once, as Arrow, into a temporary file.
A query needs an ORDER BY: without one, rows come in another order each time, and rows without
a key would change places. Without a query, the only table of the database is read, in the
order of its primary key.

A connection reads and does nothing else: SQLite and DuckDB are opened read-only (and DuckDB
without access to other files), PostgreSQL in a read-only transaction. A database that is a file
may be damaged or hostile as any file: a child (`data.quarantine`) asks it and writes the answer,
and this process never opens it. Passwords are best kept out of URLs, in `PGPASSWORD` or a
password file; where one is in a URL, it is never shown.
"""

import errno
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pyarrow as pa

from data.addresses import without_secrets
from data.cells import value_type
from data.content import ContentDigest
from data.durable import folder_of
from data.formats import READ_ROWS, Opened, SourceError, most_unpacked, open_arrow
from data.quarantine import VARIABLE as QUARANTINE
from data.quarantine import look

ORDER_BY = re.compile(r"\border\s+by\b", re.IGNORECASE)
DUCKDB: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "memory_limit": "2GB",  # it sorts on disk what is larger
}
ANSWER_S = 3600.0  # a query that works hard on a small file
INSTALL = "pip install 'latent-features[sql]'"

IN_A_FILE = ("sqlite", "duckdb")
TABLES = {
    "sqlite": (
        "select name from sqlite_master where type = 'table' and name not like 'sqlite_%' "
        "order by name"
    ),
    "duckdb": (
        "select table_name from information_schema.tables where table_schema = 'main' "
        "order by table_name"
    ),
    "postgresql": (
        "select table_name::text from information_schema.tables "
        "where table_schema = 'public' order by table_name"
    ),
}
KEY_COLUMNS = (
    "select a.attname::text from pg_index i "
    "join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any(i.indkey) "
    "where i.indisprimary and i.indrelid = '\"{table}\"'::regclass "
    "order by array_position(i.indkey::int[], a.attnum::int)"
)

Rows = Iterator[pa.RecordBatch]
Ask = Callable[[str], Any]  # of a query; a pyarrow.RecordBatchReader


@dataclass(frozen=True)
class Answer:
    """What a database answers to a query, fetched when it is first needed."""

    url: str
    query: str | None

    @property
    def describe(self) -> str:
        """The database, without secrets."""
        return without_secrets(self.url)

    @cached_property
    def _path(self) -> Path:
        answer = folder_of(self) / "rows.arrow"
        if _scheme(self.url) in IN_A_FILE:
            path = _file_of(self.url)
            asked = self.url, self.query, str(answer)
            room_bytes = most_unpacked(path.stat().st_size)
            look(fetch, path, *asked, patience_s=ANSWER_S, room_bytes=room_bytes)
        else:
            fetch(None, self.url, self.query, str(answer))
        return answer

    def digest(self) -> str:
        """What identifies the rows: it changes when the answer does."""
        opened = self.open()
        content = ContentDigest(opened.schema)
        for batch in opened.read():
            content.add(batch)
        return content.hexdigest()

    def open(self) -> Opened:
        """Read the rows that were fetched."""
        return open_arrow(self._path)


def is_database(url: str) -> bool:
    """Whether a URL names a database that we can ask."""
    return _scheme(url) in TABLES


def _scheme(url: str) -> str:
    scheme = url.partition("://")[0].lower()
    return {"postgres": "postgresql"}.get(scheme, scheme)


def fetch(_: Path | None, url: str, query: str | None, answer: str) -> None:
    """Ask a database and keep its answer in a new file.

    Raises:
        SourceError: it gives no rows, or none in an order.
    """
    if query is not None and ORDER_BY.search(query) is None:
        raise SourceError(
            f"the query of {without_secrets(url)} has no ORDER BY, so its rows come in another "
            f"order each time; add one, by a column that differs from row to row"
        )
    try:
        with CONNECT[_scheme(url)](url) as ask:
            _write(ask(query or _only_table(url, ask)), Path(answer))
    except ImportError as error:
        needed = error.name or "its driver"
        raise SourceError(
            f"{without_secrets(url)} needs {needed}; install it with {INSTALL}"
        ) from None


def _write(rows: Any, path: Path) -> None:
    schema = pa.schema([(field.name, _kept_type(field)) for field in rows.schema])
    with pa.ipc.new_file(path, schema) as file:
        for batch in rows:
            cells = [_kept(*pair) for pair in zip(batch.columns, schema.types, strict=True)]
            kept = pa.record_batch(cells, schema=schema)
            kept.validate(full=True)  # a database takes any bytes for text
            file.write(kept)


@contextmanager
def _explained(url: str, *errors: type[Exception]) -> Iterator[None]:
    """Turn what a driver complains of into an error that names the database."""
    try:
        yield
    except (*errors, OSError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno == errno.EFBIG:
            raise SourceError(
                f"{without_secrets(url)} answers with too many bytes for its size; if it is "
                f"not hostile, set {QUARANTINE}=off, or ask it for less"
            ) from None
        reason = _without_secret(str(error).strip().splitlines()[0], url)
        raise SourceError(f"{without_secrets(url)} gives no rows: {reason}") from None


def _only_table(url: str, ask: Ask) -> str:
    scheme = _scheme(url)
    names = ask(TABLES[scheme]).read_all().column(0).to_pylist()
    if len(names) != 1 or re.fullmatch(r"\w+", names[0]) is None:
        found = f"has the tables {', '.join(names)}" if names else "has no tables"
        raise SourceError(
            f"{without_secrets(url)} {found}; say which rows to take with "
            f'query = "select ... order by ..."'
        )
    order = ["rowid"]
    if scheme == "postgresql":
        order = ask(KEY_COLUMNS.format(table=names[0])).read_all().column(0).to_pylist()
    if not order:
        raise SourceError(
            f"{without_secrets(url)}: {names[0]} has no primary key to order by; say which rows "
            f'to take with query = "select ... order by ..."'
        )
    columns = ", ".join(order if scheme != "postgresql" else [f'"{name}"' for name in order])
    return f'select * from "{names[0]}" order by {columns}'


@contextmanager
def _sqlite(url: str) -> Iterator[Ask]:
    import adbc_driver_manager
    import adbc_driver_sqlite.dbapi

    path = _file_of(url)
    _refuse_cut_page(path)
    with (
        _explained(url, adbc_driver_manager.Error),
        adbc_driver_sqlite.dbapi.connect(f"file:{quote(str(path))}?mode=ro") as connection,
        connection.cursor() as cursor,
    ):
        yield lambda query: _asked(cursor, query)


def _refuse_cut_page(path: Path) -> None:
    """Refuse a SQLite file that ends within a page: what is missing would be read as zeros."""
    with path.open("rb") as file:
        start = file.read(18)
    page = int.from_bytes(start[16:18]) or 1
    size, page_bytes = path.stat().st_size, 1 << 16 if page == 1 else page
    if size % page_bytes:
        raise SourceError(
            f"{path} has {size:,} bytes, no whole number of pages of {page_bytes:,}; "
            f"it is damaged or cut short: write it again"
        )


@contextmanager
def _postgresql(url: str) -> Iterator[Ask]:
    import adbc_driver_manager
    import adbc_driver_postgresql.dbapi  # type: ignore[import-untyped]

    with (
        _explained(url, adbc_driver_manager.Error),
        adbc_driver_postgresql.dbapi.connect(url) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("set transaction isolation level repeatable read, read only")
        yield lambda query: _asked(cursor, query)


def _asked(cursor: Any, query: str) -> Any:
    cursor.execute(query)
    return cursor.fetch_record_batch()


@contextmanager
def _duckdb(url: str) -> Iterator[Ask]:
    import duckdb

    path = str(_file_of(url))
    with (
        _explained(url, duckdb.Error),
        duckdb.connect(path, read_only=True, config=DUCKDB) as connection,
    ):
        yield lambda query: connection.sql(query).to_arrow_reader(READ_ROWS)


CONNECT = {"sqlite": _sqlite, "duckdb": _duckdb, "postgresql": _postgresql}


def _file_of(url: str) -> Path:
    """The path of a database in a file: behind three slashes, relative; behind four, not."""
    path = Path(unquote(re.sub(r"^\w+:///?", "", url.partition("?")[0])))
    if not path.is_file():
        raise SourceError(f"{path} does not exist; the working folder is {Path.cwd()}")
    return path


def _kept_type(field: pa.Field) -> pa.DataType:
    """What a driver hands over as text in disguise is a decimal if it says so, else text."""
    if getattr(field.type, "type_name", "") != "numeric":
        return value_type(field.type)
    modifier = int((field.metadata or {}).get(b"POSTGRESQL:typmod", b"-1")) - 4
    precision, scale = divmod(modifier, 1 << 16)
    return pa.decimal128(precision, scale) if 0 < precision <= 38 else pa.float64()


def _kept(cells: pa.Array, kind: pa.DataType) -> pa.Array:
    storage = cells.storage if isinstance(cells, pa.ExtensionArray) else cells
    return storage.cast(kind)


def _without_secret(text: str, url: str) -> str:
    secret = re.search(r"://[^/@]*:([^@/]*)@", url)
    return text.replace(secret[1], "...") if secret and secret[1] else text
