"""Prepared copies of data sets: sealed when written, checked when opened and read.

Beside the shards TFDS writes some small files, and does not look whether any of them
has changed since. The shards' format has checksums of its own, chunk by chunk.
"""

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from cmbjax.data.examples import Example
from cmbjax.files import checksum, write_json

SEAL_FILE = "checksums.json"
SMALL = (".json", ".txt")  # files that are read whole whenever a copy is opened
# Too many open files, no memory, no permission, a disk that fails or is not at hand.
OF_THE_MACHINE = (
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM),
    *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT),
)


class Seal(msgspec.Struct):
    """What a copy is made of.

    Attributes:
        files: SHA-256 of each small file.
        shards: Size of each shard, bytes.
    """

    files: dict[str, str]
    shards: dict[str, int]


def seal(folder: Path) -> None:
    """Writes down what a copy is made of."""
    paths = sorted(path for path in folder.iterdir() if path.name != SEAL_FILE)
    small = [path for path in paths if path.suffix in SMALL]
    files = {path.name: checksum(path) for path in small}
    shards = {path.name: path.stat().st_size for path in paths if path not in small}
    write_json(folder / SEAL_FILE, msgspec.to_builtins(Seal(files, shards)))


def check(folder: Path) -> None:
    """Makes sure that a copy is what was sealed; one of an earlier version has no seal.

    Raises:
        ValueError: It is not; names the file.
    """
    path = folder / SEAL_FILE
    if not path.exists():
        return
    with damage_named(folder):
        seal = msgspec.json.decode(path.read_bytes(), type=Seal)
        sizes = {name: (folder / name).stat().st_size for name in seal.shards}
        sums = {name: checksum(folder / name) for name in seal.files}
    for name, size in seal.shards.items():
        if sizes[name] != size:
            what = f"{name} has {sizes[name]} bytes, expected {size}"
            raise damaged(folder, what)
    for name, digest in seal.files.items():
        if sums[name] != digest:
            raise damaged(folder, f"{name} is not as it was written")


def damaged(folder: Path, what: str) -> ValueError:
    """Returns the error of a copy that is not as it was prepared."""
    return ValueError(
        f"{folder}: damaged ({what}); delete it, and it is prepared again"
    )


@contextlib.contextmanager
def damage_named(folder: Path) -> Iterator[None]:
    """Makes one error, `damaged`, of whatever reading a copy raises.

    Raises:
        OSError, MemoryError: What the machine does not allow, or a disk that is not
            there, is no damage: `OF_THE_MACHINE`.
    """
    try:
        yield
    except (MemoryError, PermissionError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in OF_THE_MACHINE:
            raise
        for code in OF_THE_MACHINE:
            if os.strerror(code) in str(error):  # array_record's errors have no number
                hint = " (see ulimit -n)" if code == errno.EMFILE else ""
                raise OSError(code, f"{error}{hint}", str(folder)) from error
        raise damaged(folder, f"{type(error).__name__}: {error}") from error


class Reader(Sequence[Example]):
    """The frames of a split of a copy."""

    def __init__(self, folder: Path, source: Sequence[Any]) -> None:
        """Takes TFDS's source of them."""
        self._folder, self._source, self._number = folder, source, len(source)

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, index: Any) -> Any:
        """Returns a frame.

        Raises:
            ValueError: It cannot be read; names the folder.
        """
        if not 0 <= index < self._number:
            raise IndexError(f"frame {index} of {self._number}")
        with damage_named(self._folder):
            return self._source[index]
