"""Looks a name up in one of the tables MODELS, METRICS, DATASETS, DECODES."""

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def pick(table: Mapping[str, T], what: str, name: str) -> T:
    """Returns `table[name]`, or says which names there are."""
    if name not in table:
        names = ", ".join(sorted(table))
        raise ValueError(f"unknown {what} {name!r}; choose from: {names}")
    return table[name]
