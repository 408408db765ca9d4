"""Which layer of a network each operation of a compiled training step belongs to."""

import collections
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax


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
        elif bodies:
            bodies[name].update(_parsed(line, bodies))
    operations = bodies[entry]
    readers: dict[str, list[str]] = collections.defaultdict(list)
    for name, operation in operations.items():
        for read in operation.reads:
            readers[read].append(name)

    def take(name: str, others: list[str], wanted: str) -> None:
        paths = [operations[other].path for other in others if other in operations]
        found = [path for path in paths if re.search(wanted, path)]
        if found and not operations[name].path:
            operations[name] = operations[name]._replace(path=found[0])

    for wanted in ("PoseNet", r"transpose\(", "PoseNet", "."):
        for name in reversed(operations):
            take(name, readers[name], wanted)
        for name in operations:
            take(name, list(operations[name].reads), wanted)
    return operations


def _parsed(
    line: str, bodies: dict[str, dict[str, Operation]]
) -> Iterator[tuple[str, Operation]]:
    """Yields the operation of a line, if it has one, under its name."""
    found = re.match(
        r"\s*(?:ROOT )?%?([\w.\-]+) = (?:\(.*?\)|\S+) ([\w\-]+)\((.*?)\)(?:,|$)", line
    )
    if found:
        name, kind, reads = found.groups()
        path = re.search(r'op_name="(jit\([^"]*)"', line)
        called = re.search(r"calls=%?([\w.\-]+)", line)
        within = bodies.get(called.group(1), {}).values() if called else ()
        paths = [operation.path for operation in within if operation.path]
        own = path.group(1) if path else ""
        yield (
            name,
            Operation(
                kind,
                tuple(re.findall(r"%([\w.\-]+)", reads)),
                own or (paths[-1] if paths else ""),
            ),
        )


def layer_of(path: str) -> str:
    """Returns the layer in an operation's path of modules and methods.

    As in jit(train_step)/jvp(PoseNet.loss)/PoseNet.outputs/PoseNet.enhance/cmb1/mul.
    """
    layer = re.search(r"PoseNet\.outputs/(?:PoseNet\.\w+/)*(\w+)/", path)
    if layer:
        return layer.group(1)
    if "PoseNet.outputs/" in path:
        return "between layers"
    return "loss" if "PoseNet.loss" in path else "optimizer"
