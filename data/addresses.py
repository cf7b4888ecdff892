"""Which hosts may be asked for data: public ones, and those that the operator allows.

A spec that comes from elsewhere must not make this machine ask its neighbours or its cloud's
metadata service. Every address that a name stands for is looked at after it was resolved, the
connection goes to the very address that was looked at, and a redirect is a new name.

`LATENTS_ALLOW_HOSTS` lists hosts to allow wherever they are, also by plain http: names or
addresses as they stand in the URL, with the port if only that port is meant
("files.intranet,127.0.0.1:8000").
"""

import http.client
import ipaddress
import os
import socket
import ssl
from urllib.parse import SplitResult, urlsplit

from data.formats import SourceError

VARIABLE = "LATENTS_ALLOW_HOSTS"
TIMEOUT_S = 30.0
UNICAST = ipaddress.IPv6Network("2000::/3")  # all that is public today
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def connection_to(url: str) -> tuple[http.client.HTTPConnection, SplitResult]:
    """Open a connection for a URL, to an address that may be asked.

    Raises:
        SourceError: neither https nor allowed, no such host, or an address that is not public.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)
    allowed = _is_allowed(host, port)
    if parts.scheme not in ("http", "https") or not host:
        raise SourceError(f"{without_secrets(url)} is no https URL")
    if parts.scheme == "http" and not allowed:
        raise SourceError(
            f"{without_secrets(url)} is not encrypted; use https, or allow the host with "
            f"{VARIABLE}={host}"
        )
    address = _resolved(host, port, allowed=allowed)
    if parts.scheme == "http":
        return http.client.HTTPConnection(address, port, timeout=TIMEOUT_S), parts
    return _Pinned(host, address, port), parts


def without_secrets(url: str) -> str:
    """Return a URL without what may be secret: the user's part, the query, the fragment."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        return url
    place, slash, path = rest.partition("/")
    host = place.rpartition("@")[2]
    path, query, _ = path.replace("#", "?").partition("?")
    host = host.replace("#", "?").partition("?")[0]
    return f"{scheme}://{host}{slash}{path}{'?...' if query else ''}"


class _Pinned(http.client.HTTPSConnection):
    """TLS to an address that was looked at, in the name of the host that was asked for."""

    def __init__(self, host: str, address: str, port: int) -> None:
        self._context_of_host = ssl.create_default_context()
        super().__init__(host, port, timeout=TIMEOUT_S, context=self._context_of_host)
        self._address = address

    def connect(self) -> None:
        plain = socket.create_connection((self._address, self.port), self.timeout)
        self.sock = self._context_of_host.wrap_socket(plain, server_hostname=self.host)


def _is_allowed(host: str, port: int) -> bool:
    entries = os.environ.get(VARIABLE, "").lower().split(",")
    return bool(host) and bool({host, f"{host}:{port}"} & {entry.strip() for entry in entries})


def _resolved(host: str, port: int, *, allowed: bool) -> str:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise SourceError(f"the host {host!r} is not known ({error}); check the URL") from None
    addresses = [str(entry[4][0]) for entry in found]
    private = [address for address in addresses if not _is_public(address)]
    if private and not allowed:
        raise SourceError(
            f"the host {host!r} is {private[0]}, which is not a public address; "
            f"if it may be asked for data, allow it with {VARIABLE}={host}"
        )
    return addresses[0]


def _is_public(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        if inside := _carried(parsed):
            parsed = inside
        elif parsed not in UNICAST:
            return False
    return parsed.is_global and not parsed.is_multicast


def _carried(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that a gateway makes of it, if it is such a one."""
    if address in NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour
