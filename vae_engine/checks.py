"""What is wrong with a setting, in words: functions that return faults, none where all is well."""

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any


def keys(cls: type, mapping: Mapping[str, Any]) -> list[str]:
    """Fault keys that are no field of the dataclass `cls`, and fields that have to be given."""
    fields = {f.name: f for f in dataclasses.fields(cls)}
    faults = []
    for key in mapping:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {sorted(fields)}"
            faults.append(f"unknown key {key!r}; {hint}")
    for name, field in fields.items():
        required = (
            field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        )
        if required and name not in mapping:
            faults.append(f"key {name!r} is required")
    return faults


def one_of(name: str, value: object, choices: Sequence[str]) -> list[str]:
    """Fault a choice that is not offered, and say which name was probably meant."""
    if value in choices:
        return []
    near = difflib.get_close_matches(str(value), choices, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"choose from {list(choices)}"
    return [f"{name} is {value!r}; {hint}"]


def at_least(name: str, value: object, least: int) -> list[str]:
    """Fault what is not a whole number of `least` or more."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if whole and value >= least:  # type: ignore[operator]  # whole says it is an int
        return []
    return [f"{name} is {value!r}; it must be a whole number, at least {least}"]


def positive(name: str, value: object) -> list[str]:
    """Fault what is not a finite number above zero."""
    if _number(value) and value > 0:  # type: ignore[operator]  # it is a number
        return []
    return [f"{name} is {value!r}; it must be a finite number above 0"]


def between(name: str, value: object, low: float, high: float) -> list[str]:
    """Fault what is not a number in [low, high)."""
    if _number(value) and low <= value < high:  # type: ignore[operator]  # it is a number
        return []
    return [f"{name} is {value!r}; it must be a number from {low} to below {high}"]


def _number(value: object) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    )
