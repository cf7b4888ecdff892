import os
import signal
import ssl
import subprocess
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import data.web
from data.addresses import VARIABLE
from data.formats import SourceError
from data.sources import Source, open_source
from tests.data.sites import Site, served
from tests.faults.crashes import begun, wait

CSV = b"a,b\n1,x\n2,y\n"
ROWS = [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
LONG = b"a\n" + b"".join(b"%07d\n" % number for number in range(50_000))
HALF = len(LONG) // 2


def rows_of(source: Source) -> list[dict[str, Any]]:
    return list(pa.Table.from_batches(source.batches(), source.schema).to_pylist())


def test_a_file_on_the_web_is_a_source(site: Site) -> None:
    site.files["/t.csv"] = CSV
    source = open_source(f"{site.url}/t.csv")

    assert rows_of(source) == ROWS
    assert source.describe == f"{site.url}/t.csv"
    ids = pa.Table.from_batches(source.batches(row_id=True))["row_id"].to_pylist()
    assert ids == ["t.csv:0", "t.csv:1"]


def test_whether_it_changed_is_told_without_fetching_it(site: Site) -> None:
    site.files["/t.csv"] = CSV
    digests = [open_source(f"{site.url}/t.csv").digest for _ in range(2)]
    site.files["/t.csv"] = CSV + b"3,z\n"
    digests.append(open_source(f"{site.url}/t.csv").digest)

    assert digests[0] == digests[1] != digests[2]
    assert site.asked == ["HEAD"] * 3


def test_a_broken_download_goes_on_where_it_broke(site: Site) -> None:
    """RELIABILITY 2a, interrupted download."""
    site.files["/t.csv"] = CSV
    site.broken = 2

    assert rows_of(open_source(f"{site.url}/t.csv")) == ROWS
    assert site.asked == ["HEAD", "GET", "GET bytes=6-", "GET bytes=9-"]


def test_a_download_that_always_breaks_is_given_up(site: Site) -> None:
    site.files["/t.csv"] = CSV * 1000
    site.broken = 99

    with pytest.raises(SourceError, match=r"t.csv broke off 4 times; try again"):
        rows_of(open_source(f"{site.url}/t.csv"))


def test_a_redirect_is_followed_and_its_host_is_looked_at(site: Site) -> None:
    """RELIABILITY 2d, SSRF: redirects are checked again."""
    site.files["/t.csv"] = CSV
    site.redirects = {"/here.csv": "/t.csv", "/out.csv": "http://169.254.169.254/latest"}
    site.redirects["/round.csv"] = "/round.csv"

    assert rows_of(open_source(f"{site.url}/here.csv")) == ROWS
    with pytest.raises(SourceError, match=r"169.254.169.254/latest is not encrypted"):
        open_source(f"{site.url}/out.csv")
    with pytest.raises(SourceError, match="is redirected more than 5 times"):
        open_source(f"{site.url}/round.csv")


def test_a_missing_file_is_what_the_server_says(site: Site) -> None:
    with pytest.raises(SourceError, match=r"/t.csv\?...: the server says 404 Not Found"):
        open_source(f"{site.url}/t.csv?token=secret")


def test_an_error_names_the_place_and_not_the_copy(site: Site) -> None:
    site.files["/t.csv"] = b"a,b\n1\n"
    site.files["/t.parquet"] = b"PAR1 no more"

    for name in ("t.csv", "t.parquet"):
        with pytest.raises(SourceError) as caught:
            rows_of(open_source(f"{site.url}/{name}"))
        assert str(caught.value).startswith(f"{site.url}/{name} cannot be read: ")
    assert open_source(f"{site.url}/t.parquet").digest


def test_a_server_that_is_away_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "127.0.0.1")

    with pytest.raises(SourceError, match=r"^http://127.0.0.1:9/t.csv cannot be reached: "):
        open_source("http://user:secret@127.0.0.1:9/t.csv")


def test_https_is_checked_against_its_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTS_CACHE", str(tmp_path / "cache"))
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    subprocess.run(
        (
            f"openssl req -x509 -newkey rsa:2048 -nodes -days 1 -keyout {key} -out {certificate} "
            "-subj /CN=localhost -addext subjectAltName=DNS:localhost"
        ).split(),
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    monkeypatch.setenv(VARIABLE, "localhost")
    with served(Site(files={"/t.csv": CSV}), context) as server:
        url = f"https://localhost:{server.server_address[1]}/t.csv"
        with pytest.raises(SourceError, match="certificate verify failed"):
            open_source(url)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert rows_of(open_source(url)) == ROWS


def test_a_broken_answer_of_unknown_length_is_not_whole(site: Site) -> None:
    site.files["/t.csv"] = CSV
    site.chunked, site.broken = True, 1

    assert rows_of(open_source(f"{site.url}/t.csv")) == ROWS


def test_a_file_that_changes_before_it_is_fetched_is_refused(site: Site) -> None:
    """Its digest would be that of another file."""
    site.files["/t.csv"] = CSV
    source = open_source(f"{site.url}/t.csv")
    site.files["/t.csv"] = CSV + b"3,z\n"

    with pytest.raises(SourceError, match=r"t.csv was changed while it was read; run again"):
        rows_of(source)


# Killed in the middle, and run again in another process.


def content_of(site: Site) -> bytes:
    """All rows, as they were written."""
    numbers = [row["a"] for row in rows_of(open_source(f"{site.url}/t.csv"))]
    return b"a\n" + b"".join(b"%07d\n" % number for number in numbers)


def downloads(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache/downloads").iterdir())


def killed_half_way(site: Site, tmp_path: Path) -> None:
    site.files["/t.csv"], site.stalls_after = LONG, HALF
    process = begun(lambda: content_of(site))
    while not any(path.stat().st_size == HALF for path in tmp_path.rglob("*.partial")):
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)
    wait(process)
    site.stalls_after = None
    site.asked.clear()


def old() -> dict[str, str]:
    return {"Last-Modified": formatdate(time.time() - 3600, usegmt=True)}


def new() -> dict[str, str]:
    return {"Last-Modified": formatdate(time.time(), usegmt=True)}


@pytest.mark.parametrize("says", [dict, old])
def test_a_killed_download_goes_on_in_the_next_process(
    site: Site, tmp_path: Path, says: Callable[[], dict[str, str]]
) -> None:
    site.says = says()
    killed_half_way(site, tmp_path)

    assert content_of(site) == LONG
    assert site.asked == ["HEAD", f"GET bytes={HALF}-"]
    assert downloads(tmp_path) == []


def weak() -> dict[str, str]:
    return {"ETag": 'W/"1"'}


@pytest.mark.parametrize("says", [weak, new])
def test_what_may_stand_for_two_contents_is_not_gone_on_with(
    site: Site, tmp_path: Path, says: Callable[[], dict[str, str]]
) -> None:
    site.files["/t.csv"], site.says, site.broken = LONG, says(), 1

    assert content_of(site) == LONG
    assert site.asked == ["HEAD", "GET", "GET"]
    assert downloads(tmp_path) == []


def test_it_begins_anew_where_the_server_has_another_file(site: Site, tmp_path: Path) -> None:
    killed_half_way(site, tmp_path)
    site.files["/t.csv"] = LONG[:-8]

    assert content_of(site) == LONG[:-8]
    assert site.asked == ["HEAD", "GET"]
    assert downloads(tmp_path) == []


def test_it_begins_anew_where_the_server_knows_no_ranges(site: Site, tmp_path: Path) -> None:
    killed_half_way(site, tmp_path)
    site.knows_ranges = False

    assert content_of(site) == LONG
    assert site.asked == ["HEAD", f"GET bytes={HALF}-"]


def test_it_begins_anew_after_a_restart_of_the_machine(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power loss may have taken some of what had come."""
    killed_half_way(site, tmp_path)
    (tmp_path / "boot_id").write_text("another")
    monkeypatch.setattr(data.web, "BOOT", tmp_path / "boot_id")

    assert content_of(site) == LONG
    assert site.asked == ["HEAD", "GET"]
    assert downloads(tmp_path) == []


def test_killed_when_all_had_come_it_asks_for_nothing(site: Site, tmp_path: Path) -> None:
    killed_half_way(site, tmp_path)
    (folder,) = downloads(tmp_path)
    (folder / ".partial").write_bytes(LONG)

    assert content_of(site) == LONG
    assert site.asked == ["HEAD"]


def test_processes_that_want_the_same_file_share_one_download(
    site: Site, tmp_path: Path
) -> None:
    site.files["/t.csv"], site.stalls_after = LONG, HALF

    def same() -> None:
        assert content_of(site) == LONG

    processes = [begun(same) for _ in range(3)]
    while site.asked.count("HEAD") < 3:
        time.sleep(0.01)
    site.goes_on.set()

    assert [wait(process) for process in processes] == [0, 0, 0]
    assert site.asked.count("GET") == 1


def test_a_file_stays_while_somebody_reads_it(site: Site, tmp_path: Path) -> None:
    site.files["/t.csv"] = LONG
    first = open_source(f"{site.url}/t.csv")
    assert len(rows_of(first)) == 50_000
    second = open_source(f"{site.url}/t.csv")
    assert len(rows_of(second)) == 50_000
    del first

    assert len(rows_of(second)) == 50_000
    assert site.asked == ["HEAD", "GET", "HEAD"]


def test_what_killed_processes_left_is_removed_in_time(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_half_way(site, tmp_path)
    (left,) = downloads(tmp_path)
    site.files["/other.csv"] = CSV

    assert rows_of(open_source(f"{site.url}/other.csv")) == ROWS
    assert downloads(tmp_path) == [left]
    monkeypatch.setattr(data.web, "KEPT_S", -1)
    assert rows_of(open_source(f"{site.url}/other.csv")) == ROWS
    assert downloads(tmp_path) == []


def test_without_a_place_to_keep_it_a_file_is_fetched_all_the_same(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LATENTS_CACHE", str(tmp_path / "file/cache"))
    site.files["/t.csv"] = CSV

    assert rows_of(open_source(f"{site.url}/t.csv")) == ROWS
