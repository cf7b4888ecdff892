from collections.abc import Iterator

import pytest
from botocore import UNSIGNED

import data.objects
from data.bucket import S3Path, boto_client
from data.formats import SourceError
from data.objects import SeenObject, objects_below, seen_object
from tests.data.stores import object_store

BUCKET = S3Path("objects")


@pytest.fixture(scope="module", autouse=True)
def store() -> Iterator[str]:
    with object_store("objects") as address:
        for name in ("t/b", "t/a", "t/a b=ü/c", "t/folder/", "tt/a"):
            S3Path("objects", name).replace(b"0123456789")
        yield address


def test_a_listing_says_of_an_object_what_asking_for_it_does() -> None:
    found = objects_below(BUCKET / "t")

    assert [one.place.key for one in found] == ["t/a", "t/a b=ü/c", "t/b"]
    assert [seen_object(one.place) for one in found] == found
    assert seen_object(BUCKET / "t") is None


def test_a_range_is_what_was_seen_or_an_error() -> None:
    (BUCKET / "one").replace(b"0123456789")
    seen = seen_object(BUCKET / "one")
    assert seen is not None
    assert seen.read(3, 4) == b"3456"
    assert seen.read(0, 10) == b"0123456789"

    (BUCKET / "one").replace(b"9876543210")
    with pytest.raises(SourceError, match=r"^s3://objects/one was changed while it was read"):
        seen.read(3, 4)


def test_so_it_is_where_the_store_knows_no_condition() -> None:
    with object_store("deaf", conditional=False):
        place = S3Path("deaf", "one")
        place.replace(b"0123456789")
        seen = seen_object(place)
        assert seen is not None
        place.replace(b"9876543210")

        with pytest.raises(SourceError, match=r"^s3://deaf/one was changed while it was read"):
            seen.read(3, 4)


def test_a_store_that_is_away_is_named_and_asked_some_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = SeenObject(BUCKET / "one", '"tag"', 10)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(data.objects, "WAITS_S", (0.0,))

    with pytest.raises(
        SourceError, match=r"^s3://objects/one broke off 2 times \(Could not con"
    ):
        seen.read(0, 1)
    with pytest.raises(
        SourceError, match=r"^s3://objects/one cannot be reached: Could not conn"
    ):
        seen_object(seen.place)


def test_without_credentials_requests_are_those_of_anyone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")  # another client

    assert boto_client(public=True).meta.config.signature_version is UNSIGNED
    assert boto_client().meta.config.signature_version is not UNSIGNED
    boto_client(public=True).close()
    boto_client().close()
