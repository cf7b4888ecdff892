import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from data.bucket import BucketError, S3Path, opened, prove_conditions
from tests.data.stores import object_store


@pytest.fixture(scope="module", autouse=True)
def store() -> Iterator[str]:
    with object_store("bucket") as address:
        yield address


@pytest.fixture
def place(request: pytest.FixtureRequest) -> S3Path:
    return S3Path.at(f"s3://bucket/{request.node.name.partition('[')[0]}")


def test_a_name_is_written_once(place: S3Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"second")

    assert (place / "a").put_once(b"first", {"record": '{"rows": 1}'})
    assert not (place / "a").put_once(file)
    assert (place / "b").put_once(file)
    assert (place / "a").read_bytes() == b"first"
    assert (place / "b").read_bytes() == b"second"
    assert (place / "a").metadata() == {"record": '{"rows": 1}'}
    assert (place / "c").metadata() is None


def test_an_exchange_needs_what_was_read(place: S3Path) -> None:
    assert place.exchange(b"1", None)
    _, tag = place.read_version()
    assert not place.exchange(b"x", None)
    assert place.exchange(b"2", tag)
    assert not place.exchange(b"x", tag)
    assert place.read_bytes() == b"2"
    place.unlink()
    assert not place.exchange(b"x", tag)


def test_no_change_is_lost_where_several_change_one_object(place: S3Path) -> None:
    def count() -> None:
        for _ in range(5):
            place.change(lambda content: str(int(content or b"0") + 1).encode())

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert place.read_bytes() == b"20"


def test_a_pattern_is_matched_part_by_part(place: S3Path) -> None:
    names = ("x/v=1/manifest.json", "x/v=1/data/part.parquet", "y/v=2/manifest.json", "m.json")
    for name in names:
        (place / name).put_once(b"")

    found = [str(path).removeprefix(f"{place}/") for path in place.glob("*/v=*/*.json")]
    assert found == [names[0], names[2]]
    assert [path.name for path in (place / "x").glob("v=1/*.json")] == ["manifest.json"]
    assert list((place / "z").glob("*")) == []
    assert (place / "m.json").exists()
    assert not (place / "x").exists()


@pytest.mark.parametrize(
    "address",
    [
        "s3://",
        "s3://B",
        "s3://key:canary@bucket/x",
        "s3://bucket/x?token=canary",
        "s3://bucket/../x",
        "s3://bucket//x",
        "s3://bucket/.hidden",
    ],
)
def test_an_address_is_bucket_and_prefix_alone(address: str) -> None:
    """RELIABILITY I9 and I10: nothing leaves the prefix, and no secret is repeated."""
    with pytest.raises(ValueError, match="credentials come from the environment") as refused:
        opened(address)
    assert "canary" not in str(refused.value)


def test_what_cannot_be_reached_is_named_without_secrets(
    monkeypatch: pytest.MonkeyPatch, place: S3Path
) -> None:
    with pytest.raises(FileNotFoundError, match=f"{place}/none is not there"):
        (place / "none").read_bytes()
    with pytest.raises(
        BucketError, match=r"s3://missing/x: the object store refuses: .*Bucket"
    ):
        S3Path.at("s3://missing/x").put_once(b"")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("data.bucket.ATTEMPTS", 1)
    with pytest.raises(BucketError, match="cannot be reached") as refused:
        (place / "a").put_once(b"")
    assert "canary" not in str(refused.value)


def test_boto3_is_asked_for_where_it_is_missing(
    monkeypatch: pytest.MonkeyPatch, place: S3Path
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "boto3", None)
    monkeypatch.setenv("AWS_REGION", "elsewhere")  # a client that is not there yet
    with pytest.raises(BucketError, match=r"pip install 'latent-features\[s3\]'"):
        (place / "a").put_once(b"")


def test_a_store_that_hears_conditions_is_proven_again_and_again(place: S3Path) -> None:
    for _ in range(2):
        prove_conditions(place / "home.json", b"here")
    assert (place / "home.json").read_bytes() == b"here"
