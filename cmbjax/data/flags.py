"""The flags that name data, declared once for all scripts."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmbjax.files import expanded, printable

HIGHEST_SEED = 2**32 - 1
HIGHEST_INTEGER = 2**31 - 1  # as JAX has them
# Of these there is at least one, in every script.
COUNTS = (
    *("batch_size", "jobs", "num_frames", "num_steps", "repeats", "rounds", "seeds"),
    *("compared_seeds", "costly_steps", "forest_frames", "limit"),
)
SPLITS = ("train", "validation", "test")
KEPT_WITH_RUNS = ("tfds_dir",)  # wherever the run is opened from
WRITTEN_OUT_LATER = ("data_dir",)  # by the builder that reads it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    """What the flags of all scripts have in common."""

    def __post_init__(self) -> None:
        """Writes `~` out in paths, and checks values.

        Raises:
            ValueError: A number is not finite or too large, a count below 1, a seed or
                a split none, or a text no UTF-8, as what is stored must be.
        """
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Path) and field.name not in WRITTEN_OUT_LATER:
                path = expanded(value)
                if field.name in KEPT_WITH_RUNS:
                    path = path.absolute()
                object.__setattr__(self, field.name, path)
        _check(self, "")


def check_ranges(
    flags: Any, ranges: Mapping[str, tuple[float, float]], prefix: str = ""
) -> None:
    """Refuses numbers that lie out of their range.

    Args:
        flags: A dataclass; what is None in it has no range.
        ranges: Of each field, the least and the most.
        prefix: Of the flags' names.

    Raises:
        ValueError: One does.
    """
    for name, (least, most) in ranges.items():
        for value in _values(getattr(flags, name)):
            if value is not None and not least <= value <= most:
                raise ValueError(
                    f"--{prefix}{name} must be from {least} to {most}, got {value}"
                )


def _values(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _check(flags: Any, prefix: str) -> None:
    for field in dataclasses.fields(flags):
        name = f"{prefix}{field.name}"
        for value in _values(getattr(flags, field.name)):
            if dataclasses.is_dataclass(value):
                _check(value, f"{name}.")
            elif isinstance(value, str | Path):
                _check_text(name, value)
            elif isinstance(value, int | float):
                _check_number(name, value)


def _check_number(name: str, value: float) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"--{name} must be a finite number, got {value}")
    if name in COUNTS and value < 1:
        raise ValueError(f"--{name} must be at least 1, got {value}")
    if name == "seed" or name.endswith("_seed"):
        if not 0 <= value <= HIGHEST_SEED:
            raise ValueError(f"--{name} must be from 0 to {HIGHEST_SEED}, got {value}")
    elif isinstance(value, int) and abs(value) > HIGHEST_INTEGER:
        raise ValueError(
            f"--{name} must fit into 32 bits, at most {HIGHEST_INTEGER}, got {value}"
        )


def _check_text(name: str, value: str | Path) -> None:
    try:
        str(value).encode()
    except UnicodeEncodeError:
        raise ValueError(f"--{name} must be UTF-8, got {printable(value)}") from None
    if name == "split" and value not in SPLITS:
        raise ValueError(f"--split must be train, validation or test, got {value!r}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataFlags(Flags):
    """Which data set."""

    dataset: str = "mannequin"
    """A name in datasets/; several are joined by +."""
    data_dir: Path | None = None
    """Folder of the data set's own files, where they are not made on the spot."""
    tfds_dir: Path | None = None
    """Folder of prepared data sets; by default that of TFDS."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFlags(Flags):
    """Which run, on which data."""

    run_dir: Path | None = None
    """Folder of the run; by default the newest in runs/."""
    dataset: str | None = None
    """A name in datasets/; by default the run's own."""
    data_dir: Path | None = None
    """Folder of the data set's own files; by default the run's own."""
    tfds_dir: Path | None = None
    """Folder of prepared data sets; by default the run's own."""
    split: str = "test"
    """train, validation or test."""
