"""An S3 server in this process, on loopback, and one that lacks what publishing needs."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


@contextmanager
def object_store(bucket: str, *, conditional: bool = True) -> Iterator[str]:
    """Run moto's S3 with a fresh bucket, name it in the environment, and give its address.

    Without `conditional` it does not hear `If-None-Match`, as some stores do not.
    """
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log_request(self, *_: Any) -> None:
            pass

    served: Application = moto.DomainDispatcherApplication(moto.create_backend_app)

    def deaf(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        environ.pop("HTTP_IF_NONE_MATCH", None)
        return served(environ, start)

    answering = served if conditional else deaf
    server = make_server("127.0.0.1", 0, answering, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "canary-key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "canary-secret")
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", address)
        from data.bucket import boto_client

        boto_client().create_bucket(Bucket=bucket)
        yield address
        boto_client().close()
    server.shutdown()
    server.server_close()
    thread.join()
