"""Where the real data sets are, beside the repository, on machines that have them; a web site."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from data.addresses import VARIABLE
from tests.data.sites import Site, served

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not SHARED.is_dir():
        pytest.skip("the folder shared/data is not beside the repository")
    return SHARED


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Site]:
    site = Site()
    monkeypatch.setenv("LATENTS_CACHE", str(tmp_path / "cache"))
    with served(site) as server:
        port = server.server_address[1]
        site.url = f"http://127.0.0.1:{port}"
        monkeypatch.setenv(VARIABLE, f"127.0.0.1:{port}")
        yield site
