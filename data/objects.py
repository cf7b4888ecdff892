"""Objects of a bucket as they were when they were first seen, listed and read by ranges.

Each request names the version that it means (`If-Match`), so an object that is written anew
while it is read is an error and never a mixture of two. A broken answer is asked for again.

Where nobody gave credentials, requests are not signed, as public buckets want it.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from data.bucket import CONDITION_FAILED, NOT_FOUND, BucketError, S3Path, boto_client
from data.formats import SourceError
from data.publication import digest_of

WAITS_S = (0.0, 0.5, 2.0)  # before a range is asked for again


@dataclass(frozen=True)
class SeenObject:
    """An object, and what the store said of it at first."""

    place: S3Path
    tag: str  # in quotes, as a condition wants it
    size: int

    def __str__(self) -> str:
        return str(self.place)

    @property
    def identity(self) -> str:
        """What changes when the object is written anew."""
        return digest_of({"ETag": self.tag, "Content-Length": str(self.size)})

    def read(self, start: int, length: int) -> bytes:
        """The bytes of a range that lies within the object.

        Raises:
            SourceError: it is not what was seen any more, or cannot be read.
        """
        waits_s = iter(WAITS_S)
        while True:
            try:
                return self._range(start, length)
            except ConnectionError as error:
                wait_s = next(waits_s, None)
                if wait_s is None:
                    raise SourceError(
                        f"{self} broke off {len(WAITS_S) + 1} times ({error}); try again"
                    ) from None
            time.sleep(wait_s)

    def _range(self, start: int, length: int) -> bytes:
        changed = SourceError(f"{self} was changed while it was read; run again")
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer = boto_client(public=True).get_object(
                Bucket=self.place.bucket,
                Key=self.place.key,
                Range=f"bytes={start}-{start + length - 1}",
                IfMatch=self.tag,
            )
            content = bytes(answer["Body"].read())
        except ClientError as error:
            if _status(error) in (CONDITION_FAILED, NOT_FOUND):
                raise changed from None
            raise SourceError(f"{self} cannot be read: {error}") from None
        except BotoCoreError as error:
            raise ConnectionError(str(error)) from None
        if (
            _quoted(answer.get("ETag", "")) != self.tag
        ):  # a store that does not know the condition
            raise changed
        if len(content) != length:
            raise ConnectionError(f"{len(content)} of {length} bytes came")
        return content


def seen_object(place: S3Path) -> SeenObject | None:
    """Look for one object; None where there is none of that name.

    Raises:
        SourceError: the store cannot be asked, or does not tell versions apart.
    """
    from botocore.exceptions import ClientError

    with _asking(place) as client:
        try:
            said = client.head_object(Bucket=place.bucket, Key=place.key)
        except ClientError as error:
            if _status(error) == NOT_FOUND:
                return None
            raise
    return SeenObject(place, _tag(said, place), int(said["ContentLength"]))


def objects_below(place: S3Path) -> list[SeenObject]:
    """All objects whose names begin with that of `place` and a slash, in order.

    Raises:
        SourceError: the store cannot be asked, or does not tell versions apart.
    """
    prefix = f"{place.key}/" if place.key else ""
    with _asking(place) as client:
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket=place.bucket, Prefix=prefix
        )
        listed = [
            (S3Path(place.bucket, said["Key"]), said)
            for page in pages
            for said in page.get("Contents", [])
        ]
    found = [SeenObject(below, _tag(said, below), said["Size"]) for below, said in listed]
    return sorted((one for one in found if not one.place.key.endswith("/")), key=str)


@contextmanager
def _asking(place: S3Path) -> Iterator[Any]:
    try:
        client = boto_client(public=True)
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield client
        except (BotoCoreError, ClientError) as error:
            raise SourceError(f"{place} cannot be reached: {error}") from None
    except BucketError as error:
        raise SourceError(str(error)) from None


def _tag(said: Mapping[str, Any], place: S3Path) -> str:
    if not said.get("ETag"):
        raise SourceError(f"{place} has no ETag, which would tell a change; copy it here first")
    return _quoted(said["ETag"])


def _quoted(tag: str) -> str:
    return f'"{tag.strip(chr(34))}"'


def _status(error: Any) -> int:
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])
