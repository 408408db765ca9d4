"""Orbax checkpoints: state and position in the data, each save whole or not at all."""

from pathlib import Path
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp

from cmbjax.train.step import TrainState

KEPT = 2
COLLECTIONS = ("params", "memory", "batch_stats")
# Grain's own handler writes one such file a process and asks for as many when it
# restores. The position is the same in all, so the first one's serves any number.
POSITION_FILE = "process_0-of-1.json"


class Manager(ocp.CheckpointManager):
    """Orbax's, where signals are the loop's: see `sharding.join`."""

    def reached_preemption(self, step: int) -> bool:
        """Whether JAX's preemption service asks for a checkpoint: it is turned off."""
        return False


class Checkpoints:
    """Saves and restores a run's state, each save whole or not at all."""

    def __init__(self, run_dir: Path, *, keep: int = KEPT) -> None:
        """Opens a run folder for saving.

        Args:
            run_dir: The run's folder.
            keep: How many of the latest checkpoints stay.
        """
        self._manager = Manager(
            run_dir.absolute() / "checkpoints",
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True),
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "data": ocp.JsonCheckpointHandler(POSITION_FILE),
            },
        )

    def save(self, state: TrainState, data: grain.DatasetIterator) -> None:
        """Saves the state with the position in the data; waits until it is on disk.

        All processes take part: each writes what it alone holds.
        """
        self._manager.save(
            int(state.step),
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state._asdict()),
                data=ocp.args.JsonSave(data.get_state()),
            ),
        )
        self._manager.wait_until_finished()

    @property
    def latest_step(self) -> int | None:
        """Steps done at the latest whole checkpoint; None where there is none."""
        return self._manager.latest_step()

    def restore(
        self, like: TrainState, data: grain.DatasetIterator | None = None
    ) -> TrainState:
        """Returns the latest whole checkpoint.

        Args:
            like: A state of the same shapes, laid out as the result is to be, however
                it was saved; or an abstract one, for this process' first device.
            data: Is moved to the position it had.

        Raises:
            ValueError: There is no checkpoint, or it is of another network.
        """
        step = self.latest_step
        if step is None:
            raise ValueError(f"{self._manager.directory} holds no whole checkpoint")
        self._check_shapes(step, like)
        first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(
                x.shape, x.dtype, sharding=x.sharding or first
            ),
            like._asdict(),
        )
        items: dict[str, Any] = {"state": ocp.args.StandardRestore(abstract)}
        if data is not None:
            items["data"] = ocp.args.JsonRestore()
        restored = self._manager.restore(step, args=ocp.args.Composite(**items))
        if data is not None:
            data.set_state(restored["data"])
        return TrainState(**restored["state"])

    def _check_shapes(self, step: int, like: TrainState) -> None:
        metadata = self._manager.item_metadata(step)["state"]
        saved = {} if metadata is None else _shapes(metadata.tree)
        saved = {k: v for k, v in saved.items() if k.startswith(COLLECTIONS)}
        expected = _shapes(like.variables)
        for name in sorted(saved.keys() | expected.keys()):
            if saved.get(name) != expected.get(name):
                raise ValueError(
                    f"{self._manager.directory / str(step)} is not a checkpoint of "
                    f"this network: {name} is {saved.get(name)} there, "
                    f"{expected.get(name)} here"
                )

    def close(self) -> None:
        """Ends the manager's threads."""
        self._manager.close()


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
