import http.server
import os
import socket
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest

from data.addresses import VARIABLE
from data.bucket import arrow_store
from data.formats import SourceError
from data.remote import RemoteFile, remote
from data.sources import Source, open_source
from tests.data.stores import object_store

CSV = b"a,b\n1,x\n2,y\n"
ROWS = [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]


def rows_of(source: Source) -> list[dict[str, Any]]:
    return list(pa.Table.from_batches(source.batches(), source.schema).to_pylist())


@dataclass
class Site:
    """A web server for one test: what it serves, and what it was asked."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    broken: int = 0  # how many answers break off half way
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    site = Site()
    with served(site) as server:
        port = server.server_address[1]
        site.url = f"http://127.0.0.1:{port}"
        monkeypatch.setenv(VARIABLE, f"127.0.0.1:{port}")
        yield site


class served:
    def __init__(self, site: Site, context: ssl.SSLContext | None = None) -> None:
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler_of(site))
        if context is not None:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self) -> http.server.ThreadingHTTPServer:
        self.thread.start()
        return self.server

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def handler_of(site: Site) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            content = self.answer()
            if site.broken and content:
                site.broken -= 1
                content = content[: len(content) // 2]
            self.wfile.write(content)

        def answer(self) -> bytes:
            wanted = self.headers.get("Range")
            site.asked.append(f"{self.command} {wanted or ''}".strip())
            name = self.path.partition("?")[0]
            if name in site.redirects:
                self.send_response(302)
                self.send_header("Location", site.redirects[name])
                self.end_headers()
                return b""
            if name not in site.files:
                self.send_error(404)
                return b""
            content = site.files[name]
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
            self.send_response(206 if start else 200)
            self.send_header("ETag", f'"{hash(content)}"')
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            return content[start:]

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    return Handler


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


@pytest.fixture(scope="module")
def bucket() -> Iterator[pyarrow.fs.FileSystem]:
    with object_store("bucket"):
        store = arrow_store()
        for name, value in (("t/year=2023/a", 1), ("t/year=2024/a", 2), ("other/b", 3)):
            with store.open_output_stream(f"bucket/{name}.parquet") as stream:
                pq.write_table(pa.table({"x": [value]}), stream)
        yield store


@pytest.mark.parametrize(
    ("url", "rows"),
    [
        ("s3://bucket/other/b.parquet", [{"x": 3}]),
        ("s3://bucket/t", [{"x": 1, "year": "2023"}, {"x": 2, "year": "2024"}]),
        ("s3://bucket/t/", [{"x": 1, "year": "2023"}, {"x": 2, "year": "2024"}]),
        ("s3://bucket/t/year=2024/*.parquet", [{"x": 2}]),
        ("s3://bucket/t/*/*.parquet", [{"x": 1, "year": "2023"}, {"x": 2, "year": "2024"}]),
    ],
)
def test_objects_and_prefixes_are_sources(
    bucket: pyarrow.fs.FileSystem, url: str, rows: list[dict[str, Any]]
) -> None:
    assert rows_of(open_source(url)) == rows


def test_the_digest_of_an_object_changes_when_it_is_written(
    bucket: pyarrow.fs.FileSystem,
) -> None:
    digests = []
    for value in (1, 1, 2):
        with bucket.open_output_stream("bucket/new/c.csv") as stream:
            stream.write(f"a\n{value}\n".encode())
        digests.append(open_source("s3://bucket/new").digest)

    assert digests[0] == digests[1] != digests[2]


def test_an_object_is_read_on_where_the_connection_broke(
    bucket: pyarrow.fs.FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RELIABILITY 2a, interrupted download."""
    rows = [f"{k:09d}" for k in range(300_000)]
    with bucket.open_output_stream("bucket/long/d.csv") as stream:
        stream.write("\n".join(["a", *rows]).encode())
    with cut_off(os.environ["AWS_ENDPOINT_URL"], after_bytes=1_000_000) as (address, cuts):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        found = rows_of(open_source("s3://bucket/long"))

    assert len(cuts) == 1
    assert found == [{"a": int(row)} for row in rows]


def test_an_object_that_changes_while_it_is_read_is_refused(
    bucket: pyarrow.fs.FileSystem,
) -> None:
    def write(text: bytes) -> None:
        with bucket.open_output_stream("bucket/moving/e.csv") as stream:
            stream.write(text)

    write(b"a\n1\n")
    source = remote("s3://bucket/moving")
    write(b"a\n2\n")
    with pytest.raises(SourceError, match=r"e.csv was changed while it was read; run again"):
        source.local()


@contextmanager
def cut_off(address: str, *, after_bytes: int) -> Iterator[tuple[str, list[int]]]:
    """A way to a server that breaks once, when an answer has come this far."""
    there = urlsplit(address)
    cuts: list[int] = []

    class Way(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            server = socket.create_connection((there.hostname or "", there.port or 0))
            asking = threading.Thread(target=pumped, args=(self.request, server))
            asking.start()
            done = 0
            with suppress(OSError):
                while block := server.recv(65_536):
                    done += len(block)
                    if done > after_bytes and not cuts:
                        cuts.append(done)
                        break
                    self.request.sendall(block)
            for end in (self.request, server):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            asking.join()
            server.close()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Way) as way:
        thread = threading.Thread(target=way.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{way.server_address[1]}", cuts
        way.shutdown()
        thread.join()


def pumped(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):
        while block := one.recv(65_536):
            other.sendall(block)


def test_nothing_in_a_bucket_is_an_error(bucket: pyarrow.fs.FileSystem) -> None:
    with pytest.raises(SourceError, match="s3://bucket/none holds nothing; check bucket"):
        open_source("s3://bucket/none")


def test_an_object_cannot_leave_its_folder(bucket: pyarrow.fs.FileSystem) -> None:
    """RELIABILITY I9."""
    for name in ("../x.csv", "a/../../x.csv", "/x.csv"):
        with pytest.raises(SourceError, match="would be written outside its folder"):
            RemoteFile(name, "tag", Path.touch)


def test_another_scheme_is_refused() -> None:
    with pytest.raises(
        SourceError, match=r"^gs:// is no scheme that we read; known: s3, https"
    ):
        open_source("gs://bucket/t.csv")
