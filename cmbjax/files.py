"""Files that are whole or not there, and JSON that names what is wrong with it."""

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Annotated, Any

import msgspec

Finite = Annotated[float, msgspec.Meta(gt=-1e6, lt=1e6)]  # of a file's numbers


def checksum(path: Path) -> str:
    """Returns the SHA-256 of a file's content, in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Writes a file whole or not at all; what is not a number becomes null."""
    write_text(path, json.dumps(_numbers(value), indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


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
    """Reads a file of a JSON value a line; a last one without its end is left out.

    Args:
        path: The file.
        kind: Of the values, as in `read_json`.

    Raises:
        ValueError: A line is not JSON, or of another kind; names it.
    """
    values = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            values.append(msgspec.json.decode(line, type=kind))
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: line {number}: {error}") from None
    return values


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
