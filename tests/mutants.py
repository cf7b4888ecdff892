"""Planted defects: a module with one phrase of its source replaced, to show that tests bite."""

import inspect
from types import ModuleType


def mutant(module: ModuleType, phrase: str, replacement: str) -> ModuleType:
    """Return `module` compiled again with `phrase`, which must occur once, replaced."""
    source = inspect.getsource(module)
    assert source.count(phrase) == 1, f"{phrase!r} occurs {source.count(phrase)} times"
    changed = ModuleType(module.__name__ + "_mutant")
    exec(
        compile(source.replace(phrase, replacement), f"<{phrase} -> {replacement}>", "exec"),
        changed.__dict__,
    )
    return changed
