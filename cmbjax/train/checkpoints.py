"""Orbax checkpoints: state and position in the data, each save whole or not at all."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp

from cmbjax.files import read_json, write_json
from cmbjax.train.step import TrainState

KEPT = 2
COLLECTIONS = ("params", "memory", "batch_stats")
# Grain's own handler writes one such file a process and asks for as many when it
# restores. The position is the same in all, so the first one's serves any number.
POSITION_FILE = "process_0-of-1.json"
CHECKSUMS = "checksums"  # of checkpoints, a file each, beside their folder


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
        self._checksums = run_dir / CHECKSUMS
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
        if jax.process_index() == 0:
            self._checksums.mkdir(exist_ok=True)
            kept = {f"{step}.json" for step in self._manager.all_steps()}
            for path in self._checksums.glob("*.json"):
                if path.name not in kept:
                    path.unlink()
            sums = dict(_checksums(Path(self._manager.directory, str(int(state.step)))))
            write_json(self._checksums / f"{int(state.step)}.json", sums)

    @staticmethod
    def are_in(run_dir: Path) -> bool:
        """Tells whether a run has a checkpoint, without opening any."""
        return any(path.name.isdigit() for path in run_dir.glob("checkpoints/*"))

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
            ValueError: There is no checkpoint, it is damaged, or of another network.
        """
        step = self.latest_step
        if step is None:
            raise ValueError(f"{self._manager.directory} holds no whole checkpoint")
        if (file := self._damaged(step)) is not None:
            raise ValueError(self._advice(step, f"{file} is not what was saved"))
        try:
            return self._restore(step, like, data)
        except ValueError as error:
            if str(self._manager.directory) in str(error):
                raise
            raise ValueError(self._advice(step, f"{error}")) from None
        # Orbax and TensorStore document no errors of damaged files: among others are
        # KeyError, TypeError and bare Exception.
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise ValueError(self._advice(step, what)) from error

    def _damaged(self, step: int) -> str | None:
        """Returns a file of a checkpoint that is not as it was saved, or None.

        Of checkpoints of earlier versions nothing is known.
        """
        path = self._checksums / f"{step}.json"
        if not path.exists():
            return None
        saved = read_json(path, dict[str, str])
        now = dict(_checksums(Path(self._manager.directory, str(step))))
        for name in sorted(saved):
            if now.get(name) != saved[name]:
                return name
        return None

    def _advice(self, step: int, what: str) -> str:
        earlier = [s for s in sorted(self._manager.all_steps()) if s < step]
        whole = next((s for s in reversed(earlier) if self._damaged(s) is None), None)
        folder = self._manager.directory / str(step)
        advice = f"{folder} cannot be restored ({what:.300}); "
        if whole is None:
            return advice + "there is no earlier checkpoint: train again"
        return (
            advice + f"that of step {whole} is whole: delete this one to go on from it"
        )

    def _restore(
        self, step: int, like: TrainState, data: grain.DatasetIterator | None
    ) -> TrainState:
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


def _checksums(folder: Path) -> Iterator[tuple[str, str]]:
    """Yields each file of a checkpoint, and its SHA-256."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = hashlib.sha256(path.read_bytes())
            yield path.relative_to(folder).as_posix(), content.hexdigest()


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
