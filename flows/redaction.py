"""Secrets are never kept: which texts hold one, and how an address is shown without it."""

import re
from urllib.parse import parse_qsl, urlsplit, urlunsplit

# Names of query parameters whose values open doors: presigned links, tokens, passwords.
SECRET_NAMES = re.compile(
    r"sig|token|secret|passw|pwd|credential|jwt|((^|[^a-z])|api|access|account)key|auth",
    re.IGNORECASE,
)


def holds_secret(address: str) -> bool:
    """Whether an address carries a password, or a query parameter that is one.

    On the web, a user without a password is a token.
    """
    parts = urlsplit(address)
    if "://" not in address:
        return False
    is_web = parts.scheme in ("http", "https")
    return (
        parts.password is not None
        or (is_web and bool(parts.username))
        or any(
            SECRET_NAMES.search(name)
            for name, _ in parse_qsl(parts.query, keep_blank_values=True)
        )
    )


def redacted(address: str) -> str:
    """The address as it may be shown: no password, no values of query parameters."""
    if "://" not in address:
        return address
    parts = urlsplit(address)
    place = parts.netloc.rpartition("@")
    is_web = parts.scheme in ("http", "https")
    user = f"{parts.username}@" if parts.username and not is_web else ""
    query = "&".join(f"{name}=…" for name, _ in parse_qsl(parts.query, keep_blank_values=True))
    return urlunsplit((parts.scheme, user + place[2], parts.path, query, ""))


def scrubbed(text: str, address: str) -> str:
    """The text without the password of `address`, wherever a library wrote it."""
    password = urlsplit(address).password if "://" in address else None
    return text.replace(password, "…") if password else text
