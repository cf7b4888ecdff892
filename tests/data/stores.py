"""An S3 server in this process, on loopback, for itself and for others on this machine."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import pytest

from data.bucket import boto_client

KEY, SECRET, REGION = "canary-key", "canary-secret", "us-east-1"

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


@contextmanager
def object_store(bucket: str, *, conditional: bool = True) -> Iterator[str]:
    """Run a store with a fresh bucket (see `serving`), and name it in the environment."""
    with (
        serving(bucket, conditional=conditional) as address,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("AWS_ACCESS_KEY_ID", KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_REGION", REGION)
        patch.setenv("AWS_ENDPOINT_URL", address)
        yield address
        boto_client().close()
        boto_client(public=True).close()


def client_of(address: str) -> Any:
    """A client of the store at an address, whatever the environment says."""
    return boto3.client(
        "s3",
        endpoint_url=address,
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        region_name=REGION,
    )


@contextmanager
def serving(bucket: str, *, conditional: bool = True) -> Iterator[str]:
    """Run moto's S3 with a fresh bucket, and give its address.

    Without `conditional` it hears neither `If-None-Match` nor `If-Match`, as some stores do not.
    """
    from moto.moto_server import werkzeug_app as moto
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log_request(self, *_: Any) -> None:
            pass

    served: Application = moto.DomainDispatcherApplication(moto.create_backend_app)

    def deaf(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        environ.pop("HTTP_IF_NONE_MATCH", None)
        environ.pop("HTTP_IF_MATCH", None)
        return served(environ, start)

    answering = served if conditional else deaf
    server = make_server("127.0.0.1", 0, answering, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    client = client_of(address)
    client.create_bucket(Bucket=bucket)
    client.close()
    try:
        yield address
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
