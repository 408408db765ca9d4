"""Which layer of a network each operation of a compiled training step belongs to."""

import collections
import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax

GRADIENT = "transpose("  # in the path of what is on the way back


class Operation(NamedTuple):
    """One line of a compiled program.

    Attributes:
        kind: Such as "convolution", or "fusion" of several.
        reads: Names of the operations that it reads.
        path: Of the modules and methods that it was written in; often empty.
    """

    kind: str
    reads: tuple[str, ...]
    path: str


def nanoseconds(run: Callable[[], Any]) -> collections.Counter[str]:
    """Returns how long each operation took while something ran.

    All of them only on one core: with several, operations that share their work out
    are done after the profiler has seen their end.
    """
    spent: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(run())
        (trace,) = Path(folder).rglob("*.xplane.pb")
        for plane in jax.profiler.ProfileData.from_file(str(trace)).planes:
            for event in (event for line in plane.lines for event in line.events):
                operation = dict(event.stats).get("hlo_op")
                if operation and not event.name.startswith("end: "):
                    spent[operation] += event.duration_ns
    return spent


def operations_of(text: str) -> dict[str, Operation]:
    """Returns the operations of a program's entry by name, each with a path.

    XLA leaves what it rewrites without one: filter gradients, copies and what it fuses.
    That has the path of the last operation that was fused; else that of what reads it;
    of a filter gradient, which the optimizer reads, that of the gradient it reads.

    Args:
        text: Of the compiled program.
    """
    bodies: dict[str, dict[str, Operation]] = {}
    name = entry = ""
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if head:
            name = head.group(2)
            bodies[name], entry = {}, name if head.group(1) else entry
        elif bodies and (parsed := _parsed(line, bodies)):
            bodies[name][parsed[0]] = parsed[1]
    operations = bodies[entry]
    readers: dict[str, list[str]] = collections.defaultdict(list)
    for name, operation in operations.items():
        for read in operation.reads:
            readers[read].append(name)

    def path_of(name: str) -> str:
        return operations[name].path if name in operations else ""

    def take(name: str, others: Iterable[str], wanted: str) -> None:
        found = [path for path in map(path_of, others) if wanted in path]
        if found and not operations[name].path:
            operations[name] = operations[name]._replace(path=found[0])

    for wanted in ("jvp(", "jit("):  # a layer's path before the optimizer's
        for name in reversed(operations):
            take(name, readers[name], wanted)
        for name, operation in list(operations.items()):
            # What reads a gradient is on the way back itself.
            gradients_first = sorted(
                operation.reads, key=lambda other: GRADIENT not in path_of(other)
            )
            take(name, gradients_first, wanted)
    return operations


def _parsed(
    line: str, bodies: dict[str, dict[str, Operation]]
) -> tuple[str, Operation] | None:
    """Returns the name of a line's operation, and the operation, if it has one."""
    found = re.match(
        r"\s*(?:ROOT )?%?([\w.\-]+) = (?:\(.*?\)|\S+) ([\w\-]+)\((.*?)\)(?:,|$)", line
    )
    if not found:
        return None
    name, kind, reads = found.groups()
    own = re.search(r'op_name="(jit\([^"]*)"', line)
    called = re.search(r"calls=%?([\w.\-]+)", line)
    within = bodies.get(called.group(1), {}).values() if called else ()
    paths = [operation.path for operation in within if operation.path]
    path = own.group(1) if own else paths[-1] if paths else ""
    return name, Operation(kind, tuple(re.findall(r"%([\w.\-]+)", reads)), path)


def layer_of(path: str) -> str:
    """Returns the layer in an operation's path of modules and methods.

    As in jit(train_step)/jvp(PoseNet.loss)/PoseNet.outputs/PoseNet.enhance/cmb1/mul.
    """
    layer = re.search(r"\.outputs/(?:\w+\.\w+/)*(\w+)/", path)
    if layer:
        return layer.group(1)
    if ".outputs/" in path:
        return "between layers"
    if ".loss" in path:
        return "loss"
    return "optimizer" if path else "unknown"
