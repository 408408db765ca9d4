"""The folder of a run, which this module owns: who makes it, and who opens it.

config.json       every flag of the run
statistics.json   mean pose and surface offsets of the training split
calibration.json  how probably a joint is right, as the last validation measured it
metrics.jsonl     one record a logged step or validation; tensorboard/ has the same
checkpoints/N     state after step N and the position in the data
checksums/N.json  of each file of that, as it was saved
lock              held by whoever trains
figures/          augmented views, validations, the loss
evaluations/      one folder each: table, joints, pictures
export/           one folder each: the network as files
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cmbjax.data.examples import DepthFrames
from cmbjax.data.flags import RunFlags
from cmbjax.files import check_same, expanded, read_json, write_json
from cmbjax.models.network import Network
from cmbjax.skeletons import SKELETONS
from cmbjax.train import step
from cmbjax.train.checkpoints import Checkpoints
from cmbjax.train.config import TrainConfig
from cmbjax.train.statistics import Statistics, training_statistics

RUNS = Path("runs")
CONFIG_FILE = "config.json"
STATISTICS_FILE = "statistics.json"
CALIBRATION_FILE = "calibration.json"


@dataclasses.dataclass(frozen=True)
class Run:
    """A run's folder.

    Attributes:
        folder: Its path.
        config: Every flag of the run.
    """

    folder: Path
    config: TrainConfig

    @classmethod
    def claim(cls, config: TrainConfig) -> "Run":
        """Returns the run of a config, its folder made, or found to be of this config.

        Raises:
            ValueError: The folder holds another run, or something else.
        """
        run = cls.of(config)
        path = run.folder / CONFIG_FILE
        if path.exists():
            if differences := read_config(run.folder).differences(config):
                raise ValueError(
                    f"--run_dir={run.folder} holds a run of another config; choose "
                    "another folder, or the same flags. " + "; ".join(differences)
                )
        else:
            refuse_foreign(run.folder, CONFIG_FILE)
            run.figures.mkdir(parents=True)
            run.save_config()
        return run

    @classmethod
    def of(cls, config: TrainConfig) -> "Run":
        """Returns the run of a config, wherever its folder is."""
        default = RUNS / f"{config.dataset.replace('/', '_')}_{config.model}"
        return cls(expanded(config.run_dir or default), config)

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """Returns the run in a folder.

        Raises:
            ValueError: The folder is not one of a run of this version.
        """
        return cls(folder, read_config(folder))

    @classmethod
    def newest(cls) -> "Run":
        """Returns the run in runs/ that was trained last.

        Raises:
            ValueError: There is none.
        """
        folders = [path.parent for path in RUNS.glob(f"*/{CONFIG_FILE}")]
        if not folders:
            raise ValueError(f"no run in {RUNS}/: train one, or name it with --run_dir")
        newest = max(folders, key=lambda path: (path / CONFIG_FILE).stat().st_mtime)
        return cls.open(newest)

    @property
    def figures(self) -> Path:
        """Folder of the pictures."""
        return self.folder / "figures"

    @property
    def evaluations(self) -> Path:
        """Folder of the evaluations' folders."""
        return self.folder / "evaluations"

    @property
    def exports(self) -> Path:
        """Folder of the exports' folders."""
        return self.folder / "export"

    def save_config(self) -> None:
        """Writes config.json, once it is clear that the run can go on with it."""
        write_json(self.folder / CONFIG_FILE, self.config.to_json())

    @functools.cached_property
    def statistics(self) -> Statistics:
        """What was taken from the training split.

        Raises:
            ValueError: It is damaged, or not of the joints that it names.
        """
        path = self.folder / STATISTICS_FILE
        read = Statistics.read(path)
        joints = SKELETONS[read.skeleton].num_joints
        for name in ("mean_pose", "offsets_m", "mean_in_crop"):
            values = getattr(read, name)
            if values is not None and len(values) != joints:
                raise ValueError(
                    f"{path}: {name} must be of {joints} joints, got {len(values)}"
                )
        return read

    def take_statistics(self, frames: DepthFrames) -> Statistics:
        """Returns the statistics, taken from the training split the first time.

        Raises:
            ValueError: They are those of other frames, or see `statistics`.
        """
        path = self.folder / STATISTICS_FILE
        if not path.exists():
            write_json(path, training_statistics(frames).to_json())
        trained_on = Statistics.read(path).frames
        if trained_on != frames.name:
            raise ValueError(
                f"--run_dir={self.folder} holds a run on {trained_on}, but "
                f"the data set is now {frames.name}; choose another folder"
            )
        return self.statistics

    def save_calibration(self, coefficients: np.ndarray, frames: str) -> None:
        """Writes what `calibration.fit` measured on frames of that name."""
        content = {"frames": frames, "coefficients": coefficients.tolist()}
        write_json(self.folder / CALIBRATION_FILE, content)

    @property
    def calibration(self) -> np.ndarray | None:
        """Returns what `calibration.fit` measured; None of runs that did not."""
        path = self.folder / CALIBRATION_FILE
        if not path.exists():
            return None
        stored = read_json(path, dict[str, str | list[tuple[float, float]]])
        joints = SKELETONS[self.statistics.skeleton].joints
        coefficients = stored.get("coefficients")
        if not isinstance(coefficients, list) or len(coefficients) != len(joints):
            raise ValueError(f"{path}: coefficients must be of {len(joints)} joints")
        return np.array(coefficients)

    def restore(self) -> tuple[Network, step.TrainState]:
        """Returns the network and what the latest checkpoint holds.

        Raises:
            ValueError: There is none, or it is of another network.
        """
        model = self.config.make_model(SKELETONS[self.statistics.skeleton])
        like = step.abstract_state(
            model,
            self.config.make_optimizer(),
            side=self.config.side,
            batch_size=self.config.batch_size,
        )
        checkpoints = Checkpoints(self.folder)
        state = checkpoints.restore(like)
        checkpoints.close()
        return model, state


def claim_folder(path: Path, mine: dict[str, Any], holds: str) -> None:
    """Makes the folder of a run that is no `Run`, or finds it to be of these settings.

    Args:
        path: Of the settings, in the folder.
        mine: The settings, as JSON has them.
        holds: What the folder holds, for the error.

    Raises:
        ValueError: It is of others, or something else is in it.
    """
    folder = path.parent
    if path.exists():
        check_same(path, mine, f"--run_dir={folder} holds {holds}")
    refuse_foreign(folder, path.name)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, mine)


def refuse_foreign(folder: Path, name: str) -> None:
    """Refuses to begin a run where there is something else.

    Args:
        folder: Of the run; need not be there.
        name: Of the file that every such run has.

    Raises:
        ValueError: There is something in it, but not that file.
    """
    if folder.exists() and not (folder / name).exists() and any(folder.iterdir()):
        raise ValueError(
            f"--run_dir={folder} is not empty and holds no {name}: it is not the "
            "folder of a run"
        )


def read_config(folder: Path) -> TrainConfig:
    """Returns the config of the run in a folder.

    Raises:
        ValueError: The folder is not one of a run of this version.
    """
    path = folder / CONFIG_FILE
    try:
        return TrainConfig.from_json(read_json(path))
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path.parent}: {error}") from None


def data_dir_of(flags: RunFlags, config: TrainConfig) -> Path | None:
    """Returns the folder of the data set's own files; the run's of its own data set."""
    is_its_own = flags.dataset in (None, config.dataset)
    return flags.data_dir or (config.data_dir if is_its_own else None)


def open_run(
    flags: RunFlags, load: Callable[..., DepthFrames]
) -> tuple[Run, DepthFrames]:
    """Returns the run that flags name, and the frames to see it on.

    Args:
        flags: Of the command line.
        load: `datasets.load`.

    Raises:
        ValueError: There is no such run, or the frames have other joints than it.
    """
    folder = flags.run_dir
    run = Run.newest() if folder is None else Run.open(expanded(folder))
    config = run.config
    dataset = flags.dataset or config.dataset
    frames = load(
        dataset,
        data_dir_of(flags, config),
        flags.tfds_dir or config.tfds_dir,
        split=flags.split,
    )
    if frames.skeleton.name != run.statistics.skeleton:
        raise ValueError(
            f"--dataset={dataset} has the joints {frames.skeleton.name}, but the run "
            f"{run.folder} was trained on {run.statistics.skeleton}"
        )
    return run, frames
