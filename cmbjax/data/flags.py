"""The flags that name data, declared once for all scripts."""

import dataclasses
import math
from pathlib import Path
from typing import Any

HIGHEST_SEED = 2**32 - 1
# Of these there is at least one, in every script.
COUNTS = ("batch_size", "jobs", "num_frames", "num_steps", "repeats", "rounds", "seeds")
KEPT_WITH_RUNS = ("tfds_dir",)  # wherever the run is opened from
WRITTEN_OUT_LATER = ("data_dir",)  # by the builder that reads it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    """What the flags of all scripts have in common."""

    def __post_init__(self) -> None:
        """Checks numbers, and writes `~` out in paths.

        Raises:
            ValueError: A number is not finite, a count below 1, or a seed none.
        """
        _check_numbers(self, "")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Path) and field.name not in WRITTEN_OUT_LATER:
                path = value.expanduser()
                if field.name in KEPT_WITH_RUNS:
                    path = path.absolute()
                object.__setattr__(self, field.name, path)


def _check_numbers(flags: Any, prefix: str) -> None:
    for field in dataclasses.fields(flags):
        name, value = f"{prefix}{field.name}", getattr(flags, field.name)
        if dataclasses.is_dataclass(value):
            _check_numbers(value, f"{name}.")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"--{name} must be a finite number, got {value}")
        if field.name in COUNTS and value is not None and value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}")
        is_seed = name == "seed" or name.endswith("_seed")
        if is_seed and not 0 <= value <= HIGHEST_SEED:
            raise ValueError(f"--{name} must be from 0 to {HIGHEST_SEED}, got {value}")


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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split not in ("train", "validation", "test"):
            raise ValueError(
                f"--split must be train, validation or test, got {self.split!r}"
            )
