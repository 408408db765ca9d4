"""Ways in which a file can be damaged, edited by hand, or made to hurt."""

import json
import random
import re
from collections.abc import Callable
from typing import Any

ODD_NUMBERS = ("nan", "inf", "-1", "1e30", "1e400", "0", "9" * 400, "0x10", "", "7.5.1")
ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**31,
    2**63,
    10**400,
    1e30,
    0.5,
    "",
    "a" * 10_000,
    "\x00",
    "../../etc",
    [],
    [[]],
    {},
    [None] * 15,
)
LITERALS = ("NaN", "Infinity", "-Infinity", "1e999", "[" * 5000, "'", "\\ud800", "//")


def binary(rng: random.Random, content: bytes) -> bytes:
    """Returns bytes of which some are changed, missing, more, or moved."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 5, 20))):
        size = len(data)
        # The header of a file matters more than the rest.
        at = (
            rng.randrange(min(size, 128) if rng.random() < 0.5 else size) if size else 0
        )
        kind = rng.randrange(7)
        length = min(size - at, rng.choice((1, 2, 4, 8, 64, 1024)))
        if kind == 0 and size:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = data[at : at + length]
        elif kind == 4:
            data[at:at] = rng.randbytes(length)
        elif kind == 5:
            data[at : at + length] = rng.choice((b"\x00", b"\xff", b"\x7f")) * length
        else:
            data[at : at + length] = rng.randbytes(length)
    return bytes(data)


def text(rng: random.Random, content: bytes) -> bytes:
    """Returns text of which a number, a word or a line is another."""
    if rng.random() < 0.3:
        return binary(rng, content)
    numbers = list(re.finditer(rb"-?\d+(\.\d+)?", content))
    kind = rng.randrange(4)
    if kind < 2 and numbers:
        found = rng.choice(numbers)
        new = rng.choice(ODD_NUMBERS).encode()
        return content[: found.start()] + new + content[found.end() :]
    lines = content.split(b"\n")
    at = rng.randrange(len(lines))
    if kind == 2:
        del lines[at]
    else:
        lines.insert(
            at, rng.choice((b"\x00\x00", b"\xff", lines[at], b" ", b"x " * 99))
        )
    return b"\n".join(lines)


def json_text(rng: random.Random, content: bytes) -> bytes:
    """Returns JSON of which a part is of another type, missing, or no JSON."""
    kind = rng.random()
    if kind < 0.2:
        return binary(rng, content)
    value = json.loads(content)
    places = list(_places(value))
    holder, key = rng.choice(places)
    if kind < 0.35 and isinstance(holder, dict):
        del holder[key]
    elif kind < 0.45 and isinstance(holder, list):
        holder.insert(key, holder[key])
    elif kind < 0.6:
        holder[key] = "@"
        literal = rng.choice(LITERALS)
        return json.dumps(value).replace('"@"', literal, 1).encode()
    else:
        holder[key] = rng.choice(ODD_VALUES)
    return json.dumps(value).encode()


def _places(value: Any) -> Any:
    """Yields each list or object in a value, with the places in it."""
    items: Any = ()
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    for key, inner in items:
        yield value, key
        yield from _places(inner)


def lines(rng: random.Random, content: bytes) -> bytes:
    """Returns lines of JSON of which one is changed as by `json_text`."""
    every = content.split(b"\n")
    at = rng.randrange(max(1, len(every) - 1))
    every[at] = json_text(rng, every[at])
    return b"\n".join(every)


Mutation = Callable[[random.Random, bytes], bytes]
