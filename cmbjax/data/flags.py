"""The flags that name data, declared once for all scripts."""

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataFlags:
    """Which data set."""

    dataset: str = "mannequin"
    """A name in datasets/; several are joined by +."""
    data_dir: Path | None = None
    """Folder of the data set's own files, where they are not made on the spot."""
    tfds_dir: Path | None = None
    """Folder of prepared data sets; by default that of TFDS."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFlags:
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
        if self.split not in ("train", "validation", "test"):
            raise ValueError(
                f"--split must be train, validation or test, got {self.split!r}"
            )
