"""Files that are whole or not there, and JSON that names what is wrong with it."""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import msgspec
import numpy as np

Finite = Annotated[float, msgspec.Meta(gt=-1e6, lt=1e6)]  # of a file's numbers


def expanded(path: Path | str) -> Path:
    """Returns a path with `~` written out; of a user who is not there it stays."""
    return Path(os.path.expanduser(path))


def checksum(path: Path) -> str:
    """Returns the SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def as_json(value: Any, **layout: Any) -> str:
    """Returns JSON, laid out as by `json.dumps`; what is not a number becomes null."""
    return json.dumps(_numbers(value), allow_nan=False, **layout)


def write_json(path: Path, value: Any) -> None:
    """Writes a file whole or not at all; what is not a number becomes null."""
    write_text(path, as_json(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    with whole_file(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Yields a file that takes its place under this name if nothing fails."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def only_one(
    path: Path,
    taken: str,
    *,
    waits: bool = False,
    elsewhere: str = "choose a folder on another disk",
) -> Iterator[None]:
    """Holds the lock on a file, which is made; it goes with this process at the latest.

    It holds on other machines, too, where the disk that they share passes locks on.

    Args:
        path: The file, in or beside what this process alone is to write.
        taken: What to say where another process holds it.
        waits: Whether that is printed, and the other's end waited for.
        elsewhere: What to do where files cannot be locked.

    Raises:
        ValueError: Another process holds it, or files cannot be locked there.
    """
    import fcntl  # Windows has none

    with path.open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not waits:
                raise ValueError(taken) from None
            print(taken, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            raise ValueError(
                f"{path}: cannot be locked ({error.strerror}); {elsewhere}"
            ) from None
        yield


def read_json(path: Path, kind: Any = Any) -> Any:
    """Reads a JSON file.

    Args:
        path: The file.
        kind: What it must hold: a type that msgspec knows.

    Raises:
        ValueError: The file is absent, not JSON, or holds something else; names it,
            and the place in it.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError as error:
        raise ValueError(
            f"{path} is missing: {path.parent} is not the folder of a training run"
        ) from error
    except msgspec.ValidationError as error:
        raise ValueError(f"{path}: {error}") from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    except MemoryError:
        raise ValueError(f"{path} is larger than the memory") from None


def checked(value: Any, kind: Any, name: str) -> Any:
    """Returns what JSON holds as a type that msgspec knows; `Path` is a string there.

    Args:
        value: Of `read_json`.
        kind: The type, a dataclass for one.
        name: For errors.

    Raises:
        ValueError: It is of another kind; names the place.
    """
    try:
        return msgspec.convert(value, kind, dec_hook=_path)
    except msgspec.ValidationError as error:
        raise ValueError(f"{name}: {error}") from None


def _path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise ValueError(f"Expected `{kind.__name__}`, got {value!r:.40}")


def check_same(path: Path, mine: dict[str, Any], owner: str) -> None:
    """Refuses to go on in a folder with other settings than those it was made with.

    Args:
        path: Of the settings, JSON.
        mine: The settings now, as JSON has them.
        owner: The flag and folder, and what it holds, for the error.

    Raises:
        ValueError: They differ; names those that do, with both values.
    """
    stored = read_json(path) if path.exists() else None
    theirs = stored if isinstance(stored, dict) else {}
    different = [
        f"{name}: {theirs.get(name)} there, {mine.get(name)} here"
        for name in mine | theirs
        if name not in theirs or name not in mine or theirs[name] != mine[name]
    ]
    if different:
        raise ValueError(
            f"{owner} of other settings; choose another folder, or the same flags. "
            + "; ".join(different)
        )


def read_lines(path: Path, kind: Any = Any) -> list[Any]:
    """Reads a file of a JSON value a line, see `each_line`, at once."""
    return list(each_line(path, kind))


def each_line(path: Path, kind: Any = Any) -> Iterator[Any]:
    """Yields the values of a file of a JSON value a line; a last half one is left out.

    Args:
        path: The file.
        kind: Of the values, as in `read_json`.

    Raises:
        ValueError: A line is not JSON, or of another kind; names it.
    """
    decoder = msgspec.json.Decoder(kind)
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                value = decoder.decode(line)
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
                raise ValueError(f"{path}: line {number}: {error}") from None
            yield value


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a .npz, by name.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or something else; names it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with path.open("rb") as file, np.load(file) as stored:
            arrays = {name: stored[name] for name in stored.files}
    # Of damaged files come, among others, BadZipFile, EOFError, KeyError, zlib.error,
    # SyntaxError and MemoryError.
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"{path}: expected a whole .npz of arrays ({what:.200})"
        ) from None
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{path}: {name} is no array")
    return arrays


def printable(value: object) -> str:
    """Returns text; bytes of a file's name that are none are written out as \\xff."""
    return os.fsencode(str(value)).decode("utf-8", "backslashreplace")


def _numbers(value: Any) -> Any:
    """JSON has neither NaN nor infinity."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_numbers(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
