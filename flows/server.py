"""Prefect's server, where one is named: whether it answers, and work that outlives it."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import NoReturn, TypeVar

import httpx
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows.prefect_database import ensure_database
from flows.redaction import redacted

T = TypeVar("T")

logger = logging.getLogger(__name__)

ANSWER_S = 10.0
RETRIES = 2  # some seven seconds; Prefect's own five are more than a minute for each request


class ServerError(RuntimeError):
    """There is no Prefect server, or it does not answer."""


def server_address() -> str:
    """The Prefect server that lasts, not one that a run starts for itself.

    Raises:
        ServerError: none is named.
    """
    address = os.environ.get("PREFECT_API_URL")
    if not address:
        raise ServerError(
            "there is no Prefect server; start one with: latents up\n"
            "or name yours: export PREFECT_API_URL=http://HOST:PORT/api"
        )
    return address


def silence() -> Exception | None:
    """Why the server that is named does not answer; None where it does, or none is named."""
    if not PREFECT_API_URL.value():
        return None
    with (
        temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
        get_client(sync_client=True, httpx_settings={"timeout": ANSWER_S}) as client,
    ):
        return client.api_healthcheck()


def check_server() -> None:
    """Make sure that the server answers, where one is named.

    Raises:
        ServerError: it does not.
    """
    if (why := silence()) is not None:
        raise ServerError(
            f"Prefect at {redacted(str(PREFECT_API_URL.value()))} does not answer: {why}\n"
            f"Start it, or unset PREFECT_API_URL: a run without it starts a server of its own."
        )


@contextmanager
def beginning() -> Iterator[None]:
    """Start the server of a run of its own, where none is named, while something else is done.

    Prefect would start it when it needs it, and does where this fails, and says why. An error
    or a signal meanwhile is not held up.
    """
    if PREFECT_API_URL.value():
        yield
        return
    database = Thread(target=ensure_database, args=[dict(os.environ)], daemon=True)
    database.start()
    from prefect.server.api.server import SubprocessASGIServer

    def start() -> None:
        database.join()
        with suppress(Exception):
            SubprocessASGIServer().start()

    thread = Thread(target=start, daemon=True)
    thread.start()
    yield
    thread.join()


def outlived(work: Callable[[], T]) -> T:
    """Do the work; where the server that is named goes away meanwhile, begin again without it.

    The same command replaces this process, which would wait for minutes to tell the server what
    happened. Stages that are done are found, and those that are half done go on.
    """
    try:
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: RETRIES}):
            return work()
    except httpx.HTTPError:
        if silence() is None:
            raise
        return _begin_again()


def _begin_again() -> NoReturn:
    address = redacted(str(PREFECT_API_URL.value()))
    logger.warning("Prefect at %s is gone; the run goes on without it", address)
    sys.stdout.flush()
    sys.stderr.flush()
    command = [sys.executable, *sys.orig_argv[1:]]
    os.execve(sys.executable, command, os.environ | {"PREFECT_API_URL": ""})
