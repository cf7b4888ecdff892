import socket
from typing import Any

import pytest

from data.addresses import VARIABLE, connection_to, without_secrets
from data.formats import SourceError


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """A resolver that knows what a test tells it."""
    known: dict[str, list[str]] = {}

    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        if host not in known:
            raise socket.gaierror("no such name")
        return [(0, 0, 0, "", (address, port)) for address in known[host]]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.delenv(VARIABLE, raising=False)
    return known


PRIVATE = [
    "127.0.0.1",
    "10.1.2.3",
    "192.168.0.1",
    "172.16.0.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "::1",
    "fe80::1%eth0",
    "fd00::1",
    "::ffff:169.254.169.254",
    "2002:a9fe:a9fe::",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a00:1",
    "::a9fe:a9fe",
    "::ffff:0:a9fe:a9fe",
    "fec0::1",
    "ff02::1",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_a_name_that_stands_for_a_private_address_is_refused(
    names: dict[str, list[str]], address: str
) -> None:
    """RELIABILITY 2d, SSRF: looked at after the name was resolved, and every address of it."""
    names["data.example"] = ["93.184.216.34", address]

    with pytest.raises(SourceError) as caught:
        connection_to("https://data.example/t.csv")
    assert str(caught.value) == (
        f"the host 'data.example' is {address}, which is not a public address; "
        f"if it may be asked for data, allow it with {VARIABLE}=data.example"
    )


def test_a_public_address_may_be_asked(names: dict[str, list[str]]) -> None:
    names["data.example"] = ["93.184.216.34", "2606:2800:220:1::1"]

    connection, parts = connection_to("https://data.example:8443/t.csv?x=1")
    assert (connection.host, connection.port, parts.path) == ("data.example", 8443, "/t.csv")


@pytest.mark.parametrize("allowed", ["files.intranet", " FILES.intranet:8080 ,other"])
def test_an_operator_can_allow_a_host(
    names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch, allowed: str
) -> None:
    names["files.intranet"] = ["10.0.0.5"]
    monkeypatch.setenv(VARIABLE, allowed)

    connection, _ = connection_to("http://files.intranet:8080/t.csv")
    assert (connection.host, connection.port) == ("10.0.0.5", 8080)


def test_another_port_of_an_allowed_host_is_refused(
    names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    names["files.intranet"] = ["10.0.0.5"]
    monkeypatch.setenv(VARIABLE, "files.intranet:8080")

    with pytest.raises(SourceError, match="is not a public address"):
        connection_to("https://files.intranet/t.csv")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://data.example/t.csv", "is not encrypted; use https, or allow the host with"),
        ("ftp://data.example/t.csv", "is no https URL"),
        ("https:///t.csv", "is no https URL"),
        ("https://nowhere.example/t.csv", r"is not known \(no such name\); check the URL"),
    ],
)
def test_what_is_no_public_https_is_refused(
    names: dict[str, list[str]], url: str, message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        connection_to(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:secret@host:5432/db?password=secret", "postgresql://host:5432/db?..."),
        ("https://u:secret@host/a/b.csv?sig=secret#secret", "https://host/a/b.csv?..."),
        ("https://host?token=secret", "https://host"),
        ("https://u:se@cret@host/p", "https://host/p"),
        ("s3://bucket/key", "s3://bucket/key"),
        ("folder/file.csv", "folder/file.csv"),
    ],
)
def test_what_may_be_secret_is_not_shown(url: str, shown: str) -> None:
    """RELIABILITY I10."""
    assert without_secrets(url) == shown
