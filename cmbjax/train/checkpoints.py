"""Orbax checkpoints: state and position in the data, each save whole or not at all."""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import grain
import jax
import orbax.checkpoint as ocp

from cmbjax.files import checksum, read_json, write_json
from cmbjax.train.step import TrainState

KEPT = 2
# Grain's own handler writes one such file a process and asks for as many when it
# restores. The position is the same in all, so the first one's serves any number.
POSITION_FILE = "process_0-of-1.json"
CHECKSUMS = "checksums"  # of checkpoints, a file each, beside their folder


class Manager(ocp.CheckpointManager):
    """Orbax's, where signals are the loop's: see `sharding.join`."""

    def reached_preemption(self, step: int) -> bool:
        """Whether JAX's preemption service asks for a checkpoint: it is turned off."""
        return False


@runtime_checkable
class Data(Protocol):
    """Batches, as `grain.DatasetIterator` has them."""

    def __next__(self) -> Any:
        """Returns the next batch."""

    def get_state(self) -> Any:
        """Returns what JSON can hold of the position."""


class Checkpoints:
    """Saves and restores a run's state, each save whole or not at all."""

    def __init__(self, run_dir: Path) -> None:
        """Opens a run folder for saving."""
        self._checksums = run_dir / CHECKSUMS
        self._manager = Manager(
            run_dir.absolute() / "checkpoints",
            options=ocp.CheckpointManagerOptions(max_to_keep=KEPT, create=True),
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "data": ocp.JsonCheckpointHandler(POSITION_FILE),
            },
        )

    def save(self, state: TrainState, data: Data) -> None:
        """Saves the state with the position in the data; waits until it is on disk.

        All processes take part: each writes what it alone holds.
        """
        step = int(state.step)
        if jax.process_index() == 0:
            self._expect(step)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state._asdict()),
                data=ocp.args.JsonSave(data.get_state()),
            ),
        )
        self._manager.wait_until_finished()
        if jax.process_index() == 0:
            kept = {f"{number}.json" for number in self._manager.all_steps()}
            for path in self._checksums.glob("*.json"):
                if path.name not in kept:
                    path.unlink()
            write_json(self._checksums / f"{step}.json", self._sums(step))

    def _expect(self, step: int) -> None:
        """Notes that a checkpoint comes, whose sums are not known yet.

        A run killed between the two has a whole checkpoint, and null in place of sums.
        Those that earlier versions left without are summed up as they are.
        """
        if not self._checksums.exists():
            begun = self._checksums.with_suffix(".part")
            begun.mkdir(exist_ok=True)
            for earlier in self._manager.all_steps():
                write_json(begun / f"{earlier}.json", self._sums(earlier))
            begun.rename(self._checksums)
        write_json(self._checksums / f"{step}.json", None)

    def _sums(self, step: int) -> dict[str, str]:
        """Returns the SHA-256 of each file of a checkpoint."""
        folder = Path(self._manager.directory, str(step))
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): checksum(path) for path in files}

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
        if (damage := self._damage(step)) is not None:
            raise ValueError(self._advice(step, damage))
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

    def _damage(self, step: int) -> str | None:
        """Returns what of a checkpoint is not as it was saved, or None.

        Of runs of earlier versions, which have no sums at all, nothing is known.
        """
        if not self._checksums.exists():
            return None
        path = self._checksums / f"{step}.json"
        if not path.exists():
            return f"{path} is missing"
        try:
            saved = read_json(path, dict[str, str] | None)
        except (ValueError, OSError) as error:
            return str(error)
        if saved is None:
            return None
        now = self._sums(step)
        for name in sorted(saved.keys() | now.keys()):
            if now.get(name) != saved.get(name):
                return f"{name} is not what was saved"
        return None

    def _advice(self, step: int, what: str) -> str:
        earlier = [s for s in sorted(self._manager.all_steps()) if s < step]
        whole = next((s for s in reversed(earlier) if self._damage(s) is None), None)
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
        collections = tuple(like.variables)
        saved = {k: v for k, v in saved.items() if k.startswith(collections)}
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
