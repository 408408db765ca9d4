"""One run on all devices of all its processes: what lies where, and how they agree.

Model and train step are written for the whole batch. Only where arrays lie is said
here; XLA adds the communication, so a memory's or BN's mean is over the whole batch.
Every process runs the same program, and all must come to the same calls in the same
order: what one alone decides or does goes through `any_process` and `on_first`.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PRNGKeyArray

from cmbjax.models.memory import is_per_sample
from cmbjax.runtime import COMPILED_QUICKLY
from cmbjax.train.step import TrainState

T = TypeVar("T")

AXIS = "batch"
# Of a process that ends while others work on: after an error that it alone has met.
SHUTDOWN_TIMEOUT_S = 30


def join(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins the processes of a run; before anything else is asked of JAX.

    Args:
        coordinator_address: host:port of process 0. This and the others may be left to
            the launcher: SLURM, Open MPI and what else JAX knows.
        num_processes: In all.
        process_id: Of this one, from 0.

    Raises:
        ValueError: No launcher tells what was left to it.
    """
    # JAX's preemption service takes SIGTERM away: nothing would end a run before
    # `loop.Signals` is there to note it.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator_address,
            num_processes,
            process_id,
            shutdown_timeout_seconds=SHUTDOWN_TIMEOUT_S,
        )
    except ValueError as error:
        raise ValueError(
            "--distributed: no launcher that JAX knows (SLURM, Open MPI) tells this "
            "process its place; expected --coordinator_address=host:port, "
            f"--num_processes and --process_id, got {coordinator_address}, "
            f"{num_processes} and {process_id}"
        ) from error


def make_mesh(batch_size: int, stream_frames: int = 1) -> Mesh:
    """Returns all devices of all processes in a row, those of a process side by side.

    Args:
        batch_size: Frames, over all devices.
        stream_frames: Of each stream, which a device has as a whole.

    Raises:
        ValueError: They cannot share a batch equally.
    """
    devices = sorted(
        jax.devices(), key=lambda device: (device.process_index, device.id)
    )
    if batch_size % (len(devices) * stream_frames):
        times = f" times --stream_frames={stream_frames}" if stream_frames > 1 else ""
        raise ValueError(
            f"--batch_size must be a multiple of the number of devices, {len(devices)} "
            f"over all processes{times}, got {batch_size}"
        )
    return Mesh(np.array(devices), (AXIS,))


def create(
    make: Callable[[PRNGKeyArray], TrainState], key: PRNGKeyArray, mesh: Mesh
) -> TrainState:
    """Returns `make(key)`, laid out over the mesh as it is made.

    Every device holds all of the state, except for the memory of per_sample: a slot
    lies where its sample does.
    """
    state = jax.eval_shape(make, key)
    copied = NamedSharding(mesh, PartitionSpec())
    # A single device needs no other name for all that it has: the step would be
    # compiled for both.
    split = NamedSharding(mesh, PartitionSpec(AXIS)) if mesh.size > 1 else copied
    layout = jax.tree.map(lambda _: copied, state)._replace(
        memory=jax.tree.map(
            lambda value: split if is_per_sample(value) else copied, state.memory
        )
    )
    create = jax.jit(make, out_shardings=layout, compiler_options=COMPILED_QUICKLY)
    return create(key)


def share_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, Array]:
    """Returns the whole batch, of which each process has given its share."""
    split = NamedSharding(mesh, PartitionSpec(AXIS))
    return {
        name: jax.make_array_from_process_local_data(split, value)
        for name, value in batch.items()
    }


def local_copy(state: TrainState) -> TrainState:
    """Returns the state on this process' first device; all processes take part."""

    def gather(value: Array) -> Array:
        if value.is_fully_replicated:
            return value.addressable_data(0)
        whole = multihost_utils.process_allgather(value, tiled=True)
        return jax.device_put(whole, jax.local_devices()[0])

    return jax.tree.map(gather, state)


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process; waits for all of them."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.array(flag)).any())


def on_first(function: Callable[..., T], *arguments: Any) -> T | None:
    """Calls a function in the first process alone, while the others wait for it.

    Returns:
        What the function returned; None in the other processes.

    Raises:
        Exception: What the function raised.
        ConnectionAbortedError: The same, in the other processes.
    """
    if jax.process_count() == 1:
        return function(*arguments)
    value, raised = None, None
    if jax.process_index() == 0:
        try:
            value = function(*arguments)
        except Exception as error:
            raised = error
    if any_process(raised is not None):
        raise raised or ConnectionAbortedError("process 0 cannot go on; it says why")
    return value


def first_before_others(function: Callable[..., T], *arguments: Any) -> T:
    """Calls a function in every process, in the first before all others."""
    value = on_first(function, *arguments)
    return function(*arguments) if value is None else value
