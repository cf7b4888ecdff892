"""The rules that guess a column's kind, in the order in which they are asked.

A rule is a function of what was seen of a column; it gives a kind with the reason, or nothing.
The first that answers decides. The rules know no data set.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from data.cells import is_bytes, is_list, is_number
from data.profile import ColumnProfile
from data.splits import role_of
from data.survey import DISTINCT, LABEL_BYTES, TOP

LABEL_NAMES = ("label", "labels", "target", "targets", "class", "y", "outcome", "response")
SPLIT_NAMES = ("split", "subset", "partition")
LABEL_STARTS = ("label_", "target_", "class_")
KEY_NAMES = ("id", "key", "uuid")
ORDINAL_VALUES = 10
COUNT_MEDIAN = 20
EXACT_IN_FLOAT32 = 2**24
EXACT_IN_FLOAT64 = 2**53
NEARLY_ALL = 0.9
FEW_VALUES = 20  # of a text: they are categories, however few rows hold one
SHARED = 2  # rows of a value, on average; fewer, and the text is one row's each
LEARNABLE = 10  # the same; fewer, and rare values are not told apart
COMMON = 3  # rows of a value that is not rare
LONG_TAIL = 1.0  # skewness; an exponential has 2, a normal 0
COUNT_TAIL = 0.5  # skewness; a Poisson of mean 4 has it

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Guess:
    """A kind, and why."""

    kind: str
    why: str


@dataclass(frozen=True)
class Seen:
    """What the rules may look at: one column, and a little of its table."""

    profile: ColumnProfile
    type: pa.DataType
    note: bool  # the file says that it describes the row
    shape: Shape | None  # of its images, where the file says
    scaled_from: str | None  # what they were before, where they are scaled
    places: str | None  # the column that lists the places of these counts
    is_places: bool
    scalars: tuple[str, ...]  # names of columns whose cells are one value, in lower case
    taken: dict[str, str]  # kinds that columns to the left have, and the first of these

    @property
    def name(self) -> str:
        """The column's name as rules compare it."""
        return self.profile.name.lower()

    @property
    def is_scalar(self) -> bool:
        """Whether a cell is one value."""
        return is_scalar(self.type)

    @property
    def entry(self) -> pa.DataType:
        """The type of one entry of a list, or of a fixed number of bytes."""
        return pa.uint8() if is_bytes(self.type) else self.type.value_type

    def at(self, bound: float | str | None) -> float:
        """Return a numeric extreme; 0 where nothing was seen."""
        return 0.0 if bound is None else float(bound)


def is_scalar(kind: pa.DataType) -> bool:
    """Whether a cell of this type is one value."""
    return not (pa.types.is_nested(kind) or is_bytes(kind))


def guess(seen: Seen) -> Guess:
    """Ask the rules in order."""
    for rule in RULES:
        answer = rule(seen)
        if answer is not None:
            return answer
    return Guess("ignore", f"no type that a model reads: {', '.join(paths(seen))}")


def paths(seen: Seen) -> list[str]:
    """Name what is nested in a column, each by its path and type."""

    def below(path: str, kind: pa.DataType) -> list[str]:
        if pa.types.is_struct(kind):
            fields = [kind.field(i) for i in range(kind.num_fields)]
            return [leaf for f in fields for leaf in below(f"{path}.{f.name}", f.type)]
        if pa.types.is_map(kind):
            return [
                *below(f"{path}.key", kind.key_type),
                *below(f"{path}.value", kind.item_type),
            ]
        if pa.types.is_nested(kind):
            return below(f"{path}[]", kind.value_type)
        return [f"{path} is {kind}"]

    return below(seen.profile.name, seen.type)


def nothing_in_it(seen: Seen) -> Guess | None:
    """A column without a value says nothing."""
    profile = seen.profile
    return Guess("ignore", "every cell is null") if profile.nulls == profile.rows else None


def time(seen: Seen) -> Guess | None:
    """The first column of times dates the row."""
    if not (pa.types.is_timestamp(seen.type) or pa.types.is_date(seen.type)):
        return None
    if "timestamp" in seen.taken or not pa.types.is_timestamp(seen.type):
        return Guess("carry", "a time that does not date the row")
    zone = "" if seen.type.tz else "; it names no time zone and is read as UTC"
    return Guess("timestamp", f"the first column of times dates the row{zone}")


def split(seen: Seen) -> Guess | None:
    """A column that names train and test rows, by its name and by its values, splits them."""
    if seen.name not in SPLIT_NAMES or not pa.types.is_string(seen.type):
        return None
    profile = seen.profile
    roles = {role_of(value) for value, _ in profile.top}
    if None in roles or "train" not in roles or profile.nulls or "split" in seen.taken:
        return None
    return Guess("split", "it says which rows train and which test")


def label(seen: Seen) -> Guess | None:
    """A label is known by its name; `y` beside `x` is a coordinate."""
    named = _names_label(seen.name)
    if not named or not seen.is_scalar or (seen.name == "y" and "x" in seen.scalars):
        return None
    if "label" in seen.taken:
        return Guess("carry", f"named like a label, but {seen.taken['label']!r} is the label")
    return Guess("label", "its name says so")


def is_named_apart(name: str) -> bool:
    """Whether a name says that this is a key, a label or a split: its text is no quantity."""
    name = name.lower()
    return _names_key(name) or _names_label(name) or name in SPLIT_NAMES


def _names_label(name: str) -> bool:
    return name in LABEL_NAMES or name.startswith(LABEL_STARTS)


def _names_key(name: str) -> bool:
    return name in KEY_NAMES or name.endswith("_id")


def note(seen: Seen) -> Guess | None:
    """What a file keeps apart from its measurements describes the row."""
    return Guess("carry", "noted about the row; not measured") if seen.note else None


def identifier(seen: Seen) -> Guess | None:
    """A key is known by its name, and must differ in every row."""
    if not seen.is_scalar or not _names_key(seen.name):
        return None
    profile = seen.profile
    if profile.nulls or profile.sampled_distinct < profile.sampled:
        return Guess("ignore", "named like a key, but not different in every row")
    if "key" in seen.taken:
        return Guess("ignore", f"named like a key, but {seen.taken['key']!r} is the key")
    return Guess("key", "its name says so, and its values differ")


def row_number(seen: Seen) -> Guess | None:
    """Integers that go up by one from row to row are a key, whatever their name."""
    if not seen.profile.counts_rows:
        return None
    kind = "ignore" if "key" in seen.taken else "key"
    return Guess(kind, "it counts the rows one by one")


def sparse_count(seen: Seen) -> Guess | None:
    """Two columns of lists, one of places and one of counts, are one wide count."""
    if seen.is_places:
        return Guess("ignore", "the places of a sparse count; read together with its counts")
    if seen.places is not None:
        return Guess("count", f"counts at the places that {seen.places!r} lists")
    return None


def uneven(seen: Seen) -> Guess | None:
    """Lists must have one length, and something in them that varies."""
    if not (is_list(seen.type) or is_bytes(seen.type)):
        return None
    profile = seen.profile
    if profile.lengths is None or profile.lengths[0] != profile.lengths[1]:
        return Guess("ignore", f"lists of different lengths, {profile.lengths}")
    if profile.min == profile.max:
        return Guess("ignore", "every entry holds the same value")
    return None


def entries(seen: Seen) -> Guess | None:
    """Lists of numbers are an image, a wide count or a vector."""
    if not (is_list(seen.type) or is_bytes(seen.type)):
        return None
    if seen.scaled_from is not None:
        return Guess(
            "pixels",
            f"pictures, scaled from {seen.scaled_from}: other sizes by height and width",
        )
    if seen.shape is not None:
        return Guess("pixels", "the file gives the shape of its images")
    if seen.entry == pa.uint8():
        if square_shape((seen.profile.lengths or (0, 0))[1]) is not None:
            return Guess("pixels", "bytes whose number is a square: taken to be a grey image")
    elif pa.types.is_integer(seen.entry) and seen.at(seen.profile.min) >= 0:
        return Guess("count", "lists of integers >= 0, all of one length")
    return Guess("vector", "lists of numbers, all of one length")


def constant(seen: Seen) -> Guess | None:
    """A column that never varies says nothing."""
    if seen.profile.distinct != 1:
        return None
    return Guess("ignore", "every cell that is not null holds the same value")


def two_values(seen: Seen) -> Guess | None:
    """Two values are two values, whatever they are called."""
    kind = seen.type
    named = is_number(kind) or pa.types.is_string(kind) or pa.types.is_boolean(kind)
    return Guess("binary", "two values") if named and seen.profile.distinct == 2 else None


def text(seen: Seen) -> Guess | None:
    """Text names categories, unless hardly any two rows share one."""
    if not pa.types.is_string(seen.type):
        return None
    profile = seen.profile
    if profile.sampled_distinct >= NEARLY_ALL * profile.sampled:
        return Guess("ignore", "text that is different in nearly every row")
    if any(len(str(value)) >= LABEL_BYTES for value, _ in profile.top):
        return Guess("ignore", "texts, too long to name categories")
    many = "very many" if profile.distinct is None else f"{profile.distinct:,}"
    if has_few_rows(profile, SHARED) or (has_rare(profile) and not common(profile)):
        return Guess("ignore", f"text with {many} values, and too few rows share one")
    if has_rare(profile) or profile.distinct is None or profile.distinct > TOP:
        return Guess(
            "categorical", f"text with {many} values; the rarer ones share one category"
        )
    return Guess("categorical", f"text with {many} values")


def has_rare(profile: ColumnProfile) -> bool:
    """Whether the values of a text that few rows hold are to share one category.

    A model learns which row has such a value, and nothing that other rows could tell.
    """
    return has_few_rows(profile, LEARNABLE) and (
        profile.distinct is None or len(common(profile)) < profile.distinct
    )


def has_few_rows(profile: ColumnProfile, each: int) -> bool:
    """Whether there are many values, and surely fewer than `each` rows for one on average."""
    rows = profile.rows - profile.nulls  # all: in a sample, each value has fewer
    distinct = DISTINCT if profile.distinct is None else profile.distinct
    return distinct > FEW_VALUES and rows < each * distinct


def common(profile: ColumnProfile) -> list[Any]:
    """The values that more than a row or two hold."""
    return [value for value, count in profile.top if count >= COMMON]


def integer(seen: Seen) -> Guess | None:
    """Integers may be levels, an index, or counts."""
    profile = seen.profile
    if not pa.types.is_integer(seen.type):
        return None
    if profile.distinct is not None and profile.distinct <= ORDINAL_VALUES:
        return Guess("ordinal", f"integers with {profile.distinct} values")
    low, high = seen.at(profile.min), seen.at(profile.max)
    if max(-low, high) > EXACT_IN_FLOAT64:
        return Guess("ignore", "integers beyond 2**53: an identifier, and no float holds them")
    if hardly_repeats(profile, span=high - low + 1):
        return Guess("ignore", "an index: integers close together that hardly ever repeat")
    small = (profile.quantiles or {}).get("0.5", 0.0) <= COUNT_MEDIAN
    long_tail = (profile.skewness or 0.0) > COUNT_TAIL
    if low >= 0 and high < EXACT_IN_FLOAT32 and small and long_tail:
        return Guess("count", "integers >= 0, most of them small, with a long tail")
    return None


def number(seen: Seen) -> Guess | None:
    """Numbers > 0 whose logarithm is much less skewed live on a logarithmic scale."""
    profile = seen.profile
    if not is_number(seen.type):
        return None
    skewness, logarithm = profile.skewness or 0.0, profile.log_skewness
    if seen.at(profile.min) <= 0 or logarithm is None or skewness <= LONG_TAIL:
        return Guess("continuous", "numbers")
    if skewness - abs(logarithm) <= 0.5 * LONG_TAIL:
        return Guess("continuous", "numbers; skewed, but their logarithms are no less so")
    skewnesses = f"{logarithm:.1f} instead of {skewness:.1f}"
    return Guess("positive", f"all > 0, and much less skewed as log ({skewnesses})")


RULES: tuple[Callable[[Seen], Guess | None], ...] = (
    nothing_in_it,
    time,
    split,
    label,
    identifier,
    note,
    row_number,
    sparse_count,
    uneven,
    entries,
    constant,
    two_values,
    text,
    integer,
    number,
)


def hardly_repeats(profile: ColumnProfile, *, span: float) -> bool:
    """Whether values repeat far less often than values drawn at random from `span` would.

    n draws with replacement give span · (1 - exp(-n / span)) different values on average.
    """
    repeats = profile.sampled - profile.sampled_distinct
    expected = profile.sampled + span * np.expm1(-profile.sampled / span)
    return bool(expected >= 10 and repeats <= 0.1 * expected)


def declared_shape(schema: pa.Schema, name: str, length: int) -> Shape | None:
    """Return the shape that the field, or the file, gives for its images, if it fits."""
    for metadata in (schema.field(name).metadata, schema.metadata):
        text_ = (metadata or {}).get(b"image_shape")
        if text_ is not None:
            height, width, channels = (*map(int, json.loads(text_)), 1, 1)[:3]
            if height * width * channels == length:
                return height, width, channels
    return None


def square_shape(length: int) -> Shape | None:
    """Return the shape of a square grey image of `length` pixels, if there is one."""
    side = math.isqrt(length)
    return (side, side, 1) if side * side == length else None
