"""The small parts of operations, as laws: redaction, the watcher's eye, the servers' file, pages."""

import fcntl
import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from data.bucket import S3Path
from flows.noticeboard import key_of, links, markdown, numbers
from flows.redaction import holds_secret, redacted
from flows.settings import Home, running_servers
from flows.up import PREFECT_PORT, StartError, _port
from flows.watch import Eye, glimpse
from tests.data.sites import Site, served
from tests.data.stores import object_store


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("table.parquet", "table.parquet"),
        ("s3://bucket/a.parquet", "s3://bucket/a.parquet"),
        ("postgresql://me:pw@host:5432/db", "postgresql://me@host:5432/db"),
        (
            "https://h/t.csv?X-Amz-Signature=abc&part=1",
            "https://h/t.csv?X-Amz-Signature=…&part=…",
        ),
    ],
)
def test_an_address_is_shown_without_its_secrets(address: str, shown: str) -> None:
    assert redacted(address) == shown


@pytest.mark.parametrize(
    ("address", "secret"),
    [
        ("postgresql://me:pw@host/db", True),
        ("https://h/t.csv?token=abc", True),
        ("https://h/t.csv?api_key=abc", True),
        ("https://h/t.csv?apikey=abc", True),
        ("https://h/t.csv?AWSAccessKeyId=abc", True),
        ("https://h/t.csv?pwd=abc", True),
        ("https://ghp_abc@h/t.csv", True),
        ("postgresql://me@host/db", False),
        ("https://h/t.csv?version=3", False),
        ("s3://bucket/monkeys.csv", False),
        ("select * from t where url = 'a'", False),
    ],
)
def test_an_address_with_a_secret_is_known(address: str, secret: bool) -> None:
    assert holds_secret(address) is secret


def test_the_eye_tells_of_a_change_once_it_is_still(tmp_path: Path) -> None:
    source = tmp_path / "table.csv"
    eye = Eye({})

    def look() -> list[str]:
        return list(eye.look({"table": str(source)}))

    assert look() == []  # nothing is there yet
    source.write_text("a\n1\n")
    assert (look(), look(), look()) == ([], [], [])  # what it begins with is no news
    source.write_text("a\n1\n2\n")
    assert look() == []  # it may be in the midst of it
    source.write_text("a\n1\n2\n3\n")
    assert look() == []
    assert look() == ["table"]
    assert look() == []


def test_the_eye_remembers_what_it_told(tmp_path: Path) -> None:
    source = tmp_path / "table.csv"
    source.write_text("a\n1\n")
    before = Eye({})
    assert list(before.look({"t": str(source)})) + list(before.look({"t": str(source)})) == []

    source.write_text("a\n1\n2\n")  # while nobody looked
    after = Eye(before.settled)

    assert list(after.look({"t": str(source)})) == []
    assert list(after.look({"t": str(source)})) == ["t"]


def test_a_folder_and_a_pattern_are_looked_at_file_by_file(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("x")
    folder, pattern = glimpse(str(tmp_path)), glimpse(str(tmp_path / "*.csv"))

    (tmp_path / "c.csv").write_text("x")

    assert glimpse(str(tmp_path)) != folder
    assert glimpse(str(tmp_path / "*.csv")) != pattern
    assert glimpse("sqlite:///table.db") is None


@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_what_is_elsewhere_is_looked_at_by_what_is_said_of_it(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site()
    with served(site) as server, object_store("bucket"):
        monkeypatch.setenv("LATENTS_ALLOW_HOSTS", "127.0.0.1")
        place = S3Path("bucket", "t.csv")

        def write(content: bytes) -> None:
            site.files["/t.csv"] = content
            place.replace(content)

        eye = Eye({}, remote_s=0)
        source = (
            str(place) if scheme == "s3" else f"http://127.0.0.1:{server.server_port}/t.csv"
        )

        def look() -> list[str]:
            return list(eye.look({"t": source}))

        assert look() == []  # nothing is there yet
        write(b"a\n1\n")
        assert (look(), look()) == ([], [])
        write(b"a\n1\n2\n")
        assert (look(), look(), look()) == ([], ["t"], [])
        eye.remote_s = 3600
        write(b"a\n3\n")
        assert (look(), look()) == ([], [])  # not asked so soon


def test_servers_are_used_while_they_run_and_no_longer(tmp_path: Path) -> None:
    """The lock is what says so: a file may be left behind by a process that was killed."""
    home = Home(tmp_path)
    addresses = {"PREFECT_API_URL": "http://127.0.0.1:1/api"}
    assert running_servers(home) == {}
    home.servers.write_text(json.dumps({"environment": addresses}))

    assert running_servers(home) == {}
    with home.servers_lock.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert running_servers(home) == addresses
    assert running_servers(home) == {}


def test_a_summary_is_readable_whatever_its_last_stage() -> None:
    short = {
        "dataset": "My_data.set",
        "fingerprint": "abc",
        "rows": {"in": 1000},
        "stages": {"ingest": {"status": "ran", "seconds": 0.1}},
    }

    assert "1,000 rows in, snapshot `abc`" in markdown(short)
    assert numbers(short) == []
    assert links(short, "sqlite:///x") == {}
    assert key_of("My_data.set", "summary") == "my-data-set-summary"


def test_two_of_us_never_take_one_port() -> None:
    """Each has asked and neither listens yet: the second is given another."""
    with ExitStack() as first, ExitStack() as second:
        port = _port(None, PREFECT_PORT, first)

        assert _port(None, PREFECT_PORT, second) != port
        with pytest.raises(StartError, match=f"port {port} of 127.0.0.1 is taken"):
            _port(int(port), PREFECT_PORT, second)
