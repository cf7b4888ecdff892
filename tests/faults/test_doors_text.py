"""RELIABILITY 2d, untrusted YAML, SSRF, servers, dependencies: what comes in as text."""

import ast
import re
import socket
import tomllib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from data.addresses import VARIABLE
from data.formats import SourceError
from data.sources import open_source
from flows import up
from flows.settings import NO_PICKLES, QUIET
from flows.spec import MOST_BYTES, SpecError, load_spec
from tests.data.sites import Site, served
from tests.faults.conftest import Cases

ROOT = Path(__file__).parents[2]
PACKAGES = ("data", "flows", "vae_engine")
HEAD = '[dataset]\nname = "x"\nsource = "t.csv"\n'

BAD_SPECS: dict[str, Callable[[], bytes]] = {
    "deep brackets": lambda: f"{HEAD}key = {'[' * 5000}{']' * 5000}".encode(),
    "deep tables": lambda: f"{HEAD}key = {'{a = ' * 3000}1{'}' * 3000}".encode(),
    "digits without end": lambda: f"{HEAD}key = {'1' * 6000}".encode(),
    "megabytes": lambda: HEAD.encode() + b"#" * MOST_BYTES,
    "no text": lambda: b"\xff\xfe\x00",
    "a NUL": lambda: HEAD.encode() + b"key = '\x00'",
    "the same key twice": lambda: f"{HEAD}name = 'y'".encode(),
    "an unknown key": lambda: f"{HEAD}__class__ = 'x'".encode(),
    "an unknown table": lambda: f"{HEAD}[__init__]\nx = 1".encode(),
    "YAML": lambda: b"a: &a [x, x]\nb: &b [*a, *a]\nc: !!python/object/apply:os.system [id]\n",
    "JSON": lambda: b'{"dataset": {"name": "x"}}',
}


ROWS_OF_THE_TABLE = """
artifact tampered
malicious pickle
traversal
symlinks
archives
untrusted YAML
SSRF
logs of an outsider
secrets
permissions
Prefect results
servers exposed
dependency CVEs
hash seed
""".strip().splitlines()


@pytest.mark.parametrize("row", ROWS_OF_THE_TABLE)
def test_every_row_of_the_table_has_a_test_that_names_it(row: str) -> None:
    tests = (ROOT / "tests").rglob("test_*.py")

    said = re.compile(rf"RELIABILITY 2d, [^.]*{re.escape(row)}", re.DOTALL)
    assert any(said.search(path.read_text("utf-8")) for path in tests)


@pytest.mark.parametrize("what", BAD_SPECS)
def test_a_bad_spec_is_refused(what: str, tmp_path: Path, cases: Cases) -> None:
    """RELIABILITY 2d, untrusted YAML: a spec is TOML, of bounded size, with known keys only."""
    cases("2d specs: limits and unknown keys")
    path = tmp_path / "spec.toml"
    path.write_bytes(BAD_SPECS[what]())

    with pytest.raises(SpecError) as caught:
        load_spec(str(path))
    assert len(str(caught.value)) < 2000


def test_what_is_no_file_is_no_spec(tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()

    with pytest.raises(SpecError, match=r"folder\.toml cannot be read: Is a directory"):
        load_spec(str(tmp_path / "folder.toml"))


@pytest.mark.parametrize("value", ["[" * 5000 + "]" * 5000, "1" * 6000, "{a" * 3000])
def test_an_override_without_end_is_refused(value: str) -> None:
    with pytest.raises(SpecError):
        load_spec("mnist", [f"dataset.query.x={value}"])


@pytest.mark.parametrize(
    "value", ["$HOME", "${HOME}", "{{ env.HOME }}", "!ENV HOME", "%(home)s"]
)
def test_a_spec_says_what_it_says(value: str) -> None:
    """RELIABILITY 2d: nothing of the environment is put into it."""
    assert load_spec("mnist", [f"dataset.label={value!r}"]).dataset.label == value


@pytest.fixture(scope="module")
def code() -> list[tuple[str, ast.AST]]:
    """Every node of the product's code, with the file that it is in."""
    return [
        (str(path.relative_to(ROOT)), node)
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
    ]


def names_of(node: ast.AST) -> list[str]:
    """What the node imports or looks up."""
    if isinstance(node, ast.Import):
        return [name.name for name in node.names]
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module}.{name.name}" for name in node.names]
    if isinstance(node, ast.Attribute):
        return [ast.unparse(node)]
    return [node.id] if isinstance(node, ast.Name) else []


CLOSED = re.compile(
    r"^(yaml|pickle|cPickle|cloudpickle|dill|joblib|marshal|shelve)(\.|$)"
    r"|^(eval|exec|compile|__import__)$"
    r"|^torch\.(load|save|hub|jit)(\.|$)|^os\.(system|popen)$|load_state_dict_from_url"
    r"|unpack_archive$|(^|\.)pyfunc\.load_model$"
)


def test_no_code_of_ours_runs_what_it_reads(
    code: list[tuple[str, ast.AST]], cases: Cases
) -> None:
    """RELIABILITY 2d, malicious pickle: neither imported nor called; see also ruff."""
    cases("2d no pickle, no eval", len({where for where, _ in code}))

    named = [(where, name) for where, node in code for name in names_of(node)]
    assert [found for found in named if CLOSED.search(found[1])] == []
    assert CLOSED.search("torch.load")
    assert NO_PICKLES == {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    assert QUIET["PREFECT_RESULTS_DEFAULT_SERIALIZER"] == "json"


def test_what_is_unpacked_is_unpacked_as_data(
    code: list[tuple[str, ast.AST]], cases: Cases
) -> None:
    """RELIABILITY 2d, archives: no links, no devices, no names outside; NumPy without pickles."""
    cases("2d archives")
    for where, node in code:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            given = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if node.func.attr in ("extract", "extractall"):
                assert given.get("filter") == "'data'", where
            if ast.unparse(node.func) == "np.load":
                assert given["allow_pickle"] == "False", where


def test_the_rules_against_it_are_on() -> None:
    """RELIABILITY 2d, malicious pickle."""
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]

    assert {"S102", "S202", "S301", "S307", "S506", "S602"} <= set(rules["select"])
    assert "torch.load" in rules["flake8-tidy-imports"]["banned-api"]


FLOORS = {
    "mlflow": "3.17",
    "torch": "2.10",
    "prefect": "3.7",
}  # fixed versions, and what we use


@pytest.mark.parametrize("name", FLOORS)
def test_dependencies_have_floors_above_what_is_known_to_be_open(
    name: str, cases: Cases
) -> None:
    """RELIABILITY 2d, dependency CVEs: pip-audit needs a network, floors do not."""
    cases("2d dependency floors")
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (floor,) = [m[1] for line in declared if (m := re.match(rf"{name}>=([\d.]+)", line))]

    assert Version(floor) >= Version(FLOORS[name])
    assert Version(version(name)) >= Version(floor)


def test_nothing_of_ours_listens_to_the_world(cases: Cases) -> None:
    """RELIABILITY 2d, servers exposed: by default, by option or by documentation.

    That the servers of `latents up` do listen on loopback is in `tests.flows.test_teams`.
    """
    texts = [ROOT / "README.md", ROOT / "Makefile", ROOT / "Dockerfile", ROOT / "prefect.yaml"]
    for package in PACKAGES:
        texts += [
            p for p in (ROOT / package).rglob("*") if p.suffix in (".py", ".yaml", ".json")
        ]
    cases("2d servers exposed", len(texts))

    assert up.LOOPBACK == "127.0.0.1"
    for path in texts:
        assert "0.0.0.0" not in path.read_text("utf-8"), path
        assert not re.search(r"--allowed-hosts[ =]['\"]?\*", path.read_text("utf-8")), path


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Names that a test knows; addresses stand for themselves."""
    known: dict[str, list[str]] = {}
    original = socket.getaddrinfo

    def resolve(host: str, port: int, *rest: Any, **more: Any) -> list[Any]:
        if host in known:
            address = known[host].pop(0) if len(known[host]) > 1 else known[host][0]
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]
        return list(original(host, port, *rest, **more))

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return known


PRIVATE = [
    "http://169.254.169.254/latest/meta-data",
    "https://169.254.169.254/",
    "https://[::1]/x",
]
PRIVATE += ["https://127.0.0.1/x.csv", "https://10.0.0.1/x.csv", "https://2130706433/x.csv"]
PRIVATE += ["https://0x7f000001/x.csv", "https://127.1/x.csv", "https://localhost/x.csv"]
PRIVATE += [
    "https://[fd00:ec2::254]/x.csv",
    "https://metadata.test/x.csv",
    "file:///etc/passwd",
]
PRIVATE += ["gopher://127.0.0.1/x", "ftp://127.0.0.1/x.csv", "//169.254.169.254/x.csv"]


@pytest.mark.parametrize("target", PRIVATE)
@pytest.mark.parametrize("through", ["asked for", "redirected to"])
def test_no_private_address_is_asked(
    target: str,
    through: str,
    monkeypatch: pytest.MonkeyPatch,
    resolver: dict[str, list[str]],
    cases: Cases,
) -> None:
    """RELIABILITY 2d, SSRF: by its address however written, by a name for it, by a redirect."""
    cases("2d SSRF")
    resolver["metadata.test"] = ["169.254.169.254"]
    monkeypatch.delenv(VARIABLE, raising=False)
    asked: list[Any] = []
    original = socket.create_connection

    def connect(address: Any, *rest: Any, **more: Any) -> socket.socket:
        asked.append(address)
        return original(address, *rest, **more)

    monkeypatch.setattr(socket, "create_connection", connect)
    if through == "asked for":
        with pytest.raises(SourceError):
            open_source(target).schema  # noqa: B018
        assert asked == []
        return
    site = Site(redirects={"/t.csv": target})
    with served(site) as server:
        port = server.server_address[1]
        monkeypatch.setenv(VARIABLE, f"127.0.0.1:{port}")
        with pytest.raises(SourceError):
            open_source(f"http://127.0.0.1:{port}/t.csv").schema  # noqa: B018
    assert {address[1] for address in asked} == {port}


def test_a_name_that_changes_its_address_is_looked_at_each_time(
    monkeypatch: pytest.MonkeyPatch, resolver: dict[str, list[str]], cases: Cases
) -> None:
    """RELIABILITY 2d, SSRF: the connection goes to the address that was looked at."""
    cases("2d SSRF")
    resolver["rebinding.test"] = ["93.184.216.34", "169.254.169.254"]
    asked: list[Any] = []

    def refuse(address: Any, *rest: Any, **more: Any) -> socket.socket:
        asked.append(address[0])
        raise ConnectionRefusedError("nobody there")

    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(SourceError, match="nobody there"):
        open_source("https://rebinding.test/t.csv")
    with pytest.raises(SourceError, match="which is not a public address"):
        open_source("https://rebinding.test/t.csv")
    assert asked == ["93.184.216.34"]
