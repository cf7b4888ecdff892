import datetime
import sqlite3
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import adbc_driver_postgresql.dbapi  # type: ignore[import-untyped]
import duckdb
import pyarrow as pa
import pytest

import data.databases
from data.contract import SpecError
from data.formats import SourceError
from data.quarantine import VARIABLE as QUARANTINE
from data.snapshot import ingest
from data.sources import Source, open_source
from tests.data import postgres


def rows_of(source: Source) -> list[dict[str, Any]]:
    return list(pa.Table.from_batches(source.batches(), source.schema).to_pylist())


def execute(path: Path, *statements: str) -> Path:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()
    return path


@pytest.fixture
def lite(tmp_path: Path) -> str:
    """A SQLite database of one table, its rows out of order."""
    path = execute(
        tmp_path / "t.db",
        "create table t (id integer primary key, x real, s text)",
        "insert into t values (3, 1.5, 'a'), (1, null, 'b'), (2, 2.5, null)",
    )
    return f"sqlite:///{path}"


@pytest.fixture
def duck(tmp_path: Path) -> str:
    path = tmp_path / "t.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            "create table t as select i::int id, i * 0.5::double x, (i % 2)::varchar s, "
            "1.25::decimal(10, 2) d from range(3) r(i)"
        )
    return f"duckdb:///{path}"


@pytest.fixture(scope="module")
def post() -> Iterator[str]:
    with postgres.running() as url:
        with adbc_driver_postgresql.dbapi.connect(url) as connection, connection.cursor() as at:
            at.execute(
                "create table t (id bigint primary key, x float8, s text, d numeric(10, 2), "
                "w numeric, at timestamptz, u uuid, f bool)"
            )
            at.execute(
                "insert into t values "
                "(2, 2.5, 'b', 1.25, 0.1, '2024-01-01 01:00+01', gen_random_uuid(), true), "
                "(1, null, null, null, null, null, null, null)"
            )
            connection.commit()
        yield url


def test_a_query_of_sqlite_is_a_source(lite: str) -> None:
    query = "select id, x * 2 as twice from t where id > 1 order by id"

    assert rows_of(open_source(lite, query=query)) == [
        {"id": 2, "twice": 5.0},
        {"id": 3, "twice": 3.0},
    ]


def test_the_only_table_is_taken_in_its_own_order(lite: str, duck: str, post: str) -> None:
    assert [row["id"] for row in rows_of(open_source(lite))] == [1, 2, 3]
    assert [row["id"] for row in rows_of(open_source(duck))] == [0, 1, 2]
    assert [row["id"] for row in rows_of(open_source(post))] == [1, 2]


def test_a_query_of_duckdb_is_a_source(duck: str) -> None:
    rows = rows_of(open_source(duck, query="select * from t order by id desc limit 1"))

    assert rows == [{"id": 2, "x": 1.0, "s": "0", "d": Decimal("1.25")}]


def test_a_query_of_postgresql_is_a_source(post: str) -> None:
    rows = rows_of(open_source(post, query="select id, x, s, d, w, at, f from t order by id"))

    assert rows[1] == {
        "id": 2,
        "x": 2.5,
        "s": "b",
        "d": Decimal("1.25"),
        "w": 0.1,
        "at": datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
        "f": True,
    }
    assert set(rows[0].values()) == {1, None}


def test_the_answer_is_asked_for_once(lite: str, tmp_path: Path) -> None:
    """A table is read twice; a live database would answer differently the second time."""
    source = open_source(lite)
    before = rows_of(source)
    execute(tmp_path / "t.db", "delete from t")

    assert rows_of(source) == before
    assert rows_of(open_source(lite)) == []


def test_the_digest_is_of_the_answer(lite: str, tmp_path: Path) -> None:
    digests = [open_source(lite).digest for _ in range(2)]
    execute(tmp_path / "t.db", "update t set s = 'z' where id = 1")
    digests.append(open_source(lite).digest)

    assert digests[0] == digests[1] != digests[2]


def test_a_query_needs_an_order(lite: str) -> None:
    with pytest.raises(
        SourceError, match=r"has no ORDER BY, so its rows come in another order"
    ):
        rows_of(open_source(lite, query="select * from t"))


def test_one_of_several_tables_is_asked_for(lite: str, tmp_path: Path) -> None:
    execute(tmp_path / "t.db", "create table u (x)")

    with pytest.raises(SourceError, match=r"has the tables t, u; say which rows to take with"):
        rows_of(open_source(lite))


def test_an_empty_database_is_refused(tmp_path: Path) -> None:
    execute(tmp_path / "e.db", "create table t (x)", "drop table t")

    with pytest.raises(SourceError, match="has no tables; say which rows"):
        rows_of(open_source(f"sqlite:///{tmp_path / 'e.db'}"))


@pytest.mark.parametrize("scheme", ["sqlite", "duckdb"])
def test_a_missing_file_is_named(scheme: str) -> None:
    with pytest.raises(SourceError, match=r"^nowhere.db does not exist; the working folder is"):
        rows_of(open_source(f"{scheme}:///nowhere.db"))


def test_a_wrong_query_is_what_the_database_says(lite: str, duck: str, post: str) -> None:
    for url in (lite, duck, post):
        with pytest.raises(SourceError, match=r"gives no rows: .*nope"):
            rows_of(open_source(url, query="select nope from t order by id"))


WRITES = {
    "lite": ("delete from t returning 1 /* order by */", "readonly database|read-only|no rows"),
    "post": ("create table v as select 1 a order by a", "read-only transaction"),
    "duck": ("create table v as select 1 a order by a", "read-only mode"),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_database_is_only_read(name: str, request: pytest.FixtureRequest) -> None:
    query, message = WRITES[name]
    url = request.getfixturevalue(name)
    before = rows_of(open_source(url))

    with pytest.raises(SourceError, match=message):
        rows_of(open_source(url, query=query))
    assert rows_of(open_source(url)) == before


def test_duckdb_cannot_read_other_files(duck: str, tmp_path: Path) -> None:
    """RELIABILITY I9."""
    (tmp_path / "secret.csv").write_text("a\ncanary\n")
    query = f"select * from read_csv('{tmp_path}/secret.csv') order by 1"

    with pytest.raises(SourceError, match="gives no rows: Permission Error"):
        rows_of(open_source(duck, query=query))


def test_a_change_of_type_in_sqlite_is_refused(tmp_path: Path) -> None:
    """SQLite has types of cells, not of columns; a late text among numbers is an error."""
    path = execute(tmp_path / "t.db", "create table t (x)")
    values = ", ".join(f"({k})" for k in range(3000))
    execute(path, f"insert into t values {values}", "insert into t values ('late')")

    with pytest.raises(SourceError, match=r"gives no rows: .*expected INT64 but got STRING"):
        rows_of(open_source(f"sqlite:///{path}"))


def test_no_secret_is_shown(post: str, tmp_path: Path) -> None:
    """RELIABILITY I10: not in a description, an error, a manifest or an index."""
    assert postgres.PASSWORD in post
    snapshot = ingest(post, name="t", root=tmp_path, overrides={"x": {"kind": "continuous"}})
    wrong = post.replace("/postgres", "/nowhere")
    with pytest.raises(SourceError) as caught:
        rows_of(open_source(wrong))

    assert postgres.PASSWORD not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)
    assert "/nowhere" in str(caught.value)
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or postgres.PASSWORD.encode() not in path.read_bytes()
    assert snapshot.rows == 2


def test_a_query_is_for_a_database(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"t.csv is no database; a query needs one"):
        open_source(tmp_path / "t.csv", query="select 1 order by 1")


def test_a_driver_that_is_not_installed_is_named(
    lite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(url: str) -> Any:
        raise ModuleNotFoundError("no driver", name="adbc_driver_sqlite")

    monkeypatch.setitem(data.databases.CONNECT, "sqlite", absent)
    monkeypatch.setenv(QUARANTINE, "off")

    with pytest.raises(
        SourceError, match=r"needs adbc_driver_sqlite; install it with pip inst"
    ):
        rows_of(open_source(lite))


def test_text_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """SQLite keeps any bytes as text."""
    path = execute(
        tmp_path / "t.db",
        "create table t (id integer primary key, s text)",
        "insert into t values (1, 'a'), (2, cast(x'ff' as text))",
    )

    with pytest.raises(SourceError, match=r"t\.db gives no rows: .*Invalid UTF8"):
        open_source(f"sqlite:///{path}").schema  # noqa: B018


@pytest.mark.parametrize("missing", [1, 1000, 4095])
def test_a_page_that_is_cut_is_no_page_of_zeros(lite: str, missing: int) -> None:
    """SQLite fills it up, and rows become others."""
    path = Path(lite.removeprefix("sqlite:///"))
    path.write_bytes(path.read_bytes()[:-missing])

    with pytest.raises(SourceError, match=r"no whole number of pages of 4,096; it is damaged"):
        open_source(lite).schema  # noqa: B018
