"""The flags of train.py, evaluate.py and export.py, and the objects that they name."""

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import optax

from cmbjax import training
from cmbjax.augment import Augmentation
from cmbjax.checkpoints import Checkpoints, read_json, write_json
from cmbjax.crops import CropMode
from cmbjax.heatmaps import DECODES
from cmbjax.metrics import METRICS
from cmbjax.models import MODELS
from cmbjax.models.cmb import MemoryMode
from cmbjax.models.network import Network
from cmbjax.models.posenet import Head3d
from cmbjax.pipeline import DepthFrames, Preparation
from cmbjax.registry import pick

RUNS = Path("runs")
CONFIG_FILE = "config.json"

# Flags that not every network has, and what they are by default.
OWN_FIELDS = {
    "memory_mode": "shared",
    "memory_gradient": False,
    "trunk_norm": True,
}

# Runs of earlier versions do not name these.
ADDED_FIELDS = {"memory_steps": 1, "memory_gradient": False}

# A run may be continued with other values of these: no step depends on them.
FREE_FIELDS = {
    "data_dir",
    "tfds_dir",
    "run_dir",
    "num_steps",
    "log_every",
    "validate_every",
    "checkpoint_every",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Trains one network on one data set. Started again in its folder, it goes on."""

    dataset: str = "mannequin"
    """A name in datasets/."""
    data_dir: Path | None = None
    """Folder of the data set's own files, where they are not made on the spot."""
    tfds_dir: Path | None = None
    """Folder of prepared data sets; by default that of TFDS."""
    run_dir: Path | None = None
    """Folder of the run; by default runs/<dataset>_<model>."""
    model: str = "cmb"
    """A name in MODELS."""
    width: float = 1.0
    """Multiplies every channel count."""
    memory_mode: MemoryMode = "shared"
    """One memory for all samples, or one a slot of the batch."""
    memory_lr: float = 0.0
    """Gradient step on the memory before it is stored; 0 for none."""
    memory_steps: int = 1
    """Parts of a batch that pass through the memory one after the other."""
    memory_gradient: bool = False
    """Whether the gradient flows from one part into those before it."""
    trunk_norm: bool = True
    """Batch normalisation in the trunk as well as in the blocks; Table 1 has none."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the computation; parameters, memory, statistics and loss are float32."""
    head3d: Head3d = "none"
    """What gives the joints' depth: dense, two layers of 1024 on the heat maps, maps,
    a map of depth beside each heat map, or none: it is looked up in the image."""
    side: int = 192
    """Side of the network's input, pixels; a multiple of 8, or of what it needs."""
    crop: CropMode | None = None
    """What the network sees: by default person, for astar and itop/top label_box."""
    depth_range: float | None = None
    """Depth told apart before and behind the body, mm or raw; by default its reach."""
    sigma: float | None = None
    """Deviation of the target heat maps' Gaussian, in cells; by default 1.5, or what
    the compared method has."""
    augmentation: Augmentation = Augmentation()
    """Random views."""
    batch_size: int = 16
    """Frames a step, over all devices of all processes."""
    num_steps: int = 40_000
    """Steps in all."""
    learning_rate: float = 2.5e-4
    """Of Adam, at the start."""
    schedule: Literal["exponential", "cosine"] = "exponential"
    """The paper's decay, or half a cosine down to 0 at num_steps."""
    decay_rate: float = 0.95
    """Factor of the exponential decay."""
    decay_every: int = 1000
    """Steps between two decays."""
    r_switch_step: int = 10_000
    """Step from which r of Eq. 2 is 3 instead of 1."""
    train_share: float = 1.0
    """Part of the training split to use (Fig. 6)."""
    seed: int = 0
    """Of parameters, memory, order and views."""
    log_every: int = 50
    """Steps between two records."""
    validate_every: int = 2000
    """Steps between two validations; 0 for one at the end."""
    checkpoint_every: int = 1000
    """Steps between two checkpoints."""

    def __post_init__(self) -> None:
        pick(MODELS, "model", self.model)
        at_least = {
            "batch_size": 1,
            "num_steps": 1,
            "decay_every": 1,
            "log_every": 1,
            "checkpoint_every": 1,
            "validate_every": 0,
            "r_switch_step": 0,
            "memory_lr": 0,
            "memory_steps": 1,
        }
        for name, least in at_least.items():
            if getattr(self, name) < least:
                came = getattr(self, name)
                raise ValueError(f"--{name} must be at least {least}, got {came}")
        above_0 = ("width", "learning_rate", "decay_rate", "train_share")
        for name in (*above_0, "depth_range", "sigma"):
            value = getattr(self, name)
            if value is None and name in ("depth_range", "sigma"):
                continue
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"--{name} must be above 0, got {value}")
        if self.train_share > 1:
            raise ValueError(f"--train_share must be at most 1, got {self.train_share}")
        if self.batch_size % self.memory_steps:
            raise ValueError(
                f"--memory_steps must divide --batch_size={self.batch_size}, got "
                f"{self.memory_steps}"
            )
        if self.memory_steps > 1 and (self.memory_lr or self.memory_mode != "shared"):
            raise ValueError(
                f"--memory_steps={self.memory_steps} goes with --memory_mode=shared "
                f"and --memory_lr=0, got {self.memory_mode} and {self.memory_lr}"
            )
        if self.side < 16 or self.side % 8:
            raise ValueError(
                f"--side must be a multiple of 8 of at least 16, got {self.side}"
            )
        model = self.make_model(1)
        if self.side % model.divisor:
            raise ValueError(
                f"--side must be a multiple of {model.divisor} for "
                f"--model={self.model}, got {self.side}"
            )
        if self.head3d not in model.heads3d:
            raise ValueError(
                f"--head3d must be one of {', '.join(model.heads3d)} for "
                f"--model={self.model}, got {self.head3d}"
            )
        if model.sequential and self.memory_steps > 1:
            raise ValueError(
                f"--memory_steps=1 for --model={self.model}, got {self.memory_steps}"
            )

    @property
    def folder(self) -> Path:
        """The run's folder."""
        if self.run_dir is not None:
            return self.run_dir.expanduser()
        return RUNS / f"{self.dataset.replace('/', '_')}_{self.model}"

    def make_model(self, num_joints: int) -> Network:
        """Returns the network.

        Raises:
            ValueError: A flag is one that this network does not have.
        """
        make = MODELS[self.model]
        network: Any = make.func if isinstance(make, functools.partial) else make
        has = {field.name for field in dataclasses.fields(network)}
        own = {name: getattr(self, name) for name in OWN_FIELDS if name in has}
        for name, default in OWN_FIELDS.items():
            if name not in has and getattr(self, name) != default:
                raise ValueError(
                    f"--{name}: --model={self.model} has nothing of the kind"
                )
        return make(
            num_joints=num_joints,
            width=self.width,
            head3d=self.head3d,
            dtype=jnp.dtype(self.dtype),
            **own,
        )

    def make_sigma(self, model: Network) -> float:
        """Returns the deviation of the target heat maps' Gaussian, in cells."""
        return model.sigma(self.side) if self.sigma is None else self.sigma

    def make_optimizer(self) -> optax.GradientTransformation:
        """Returns Adam with the schedule (Sec. 5, Implement Details)."""
        if self.schedule == "cosine":
            schedule = optax.cosine_decay_schedule(self.learning_rate, self.num_steps)
        else:
            schedule = optax.exponential_decay(
                self.learning_rate, self.decay_every, self.decay_rate, staircase=True
            )
        return optax.adam(schedule, b1=0.9, b2=0.999)

    def restore(
        self, run_dir: Path, num_joints: int
    ) -> tuple[Network, training.TrainState]:
        """Returns the network and what the latest checkpoint in a run's folder holds.

        Raises:
            ValueError: There is none, or it is of another network.
        """
        model = self.make_model(num_joints)
        like = training.abstract_state(
            model, self.make_optimizer(), side=self.side, batch_size=self.batch_size
        )
        checkpoints = Checkpoints(run_dir)
        state = checkpoints.restore(like)
        checkpoints.close()
        return model, state

    def make_preparation(
        self, frames: DepthFrames, crop: CropMode | None = None
    ) -> Preparation:
        """Returns how frames become inputs; `crop` stands in for the run's own."""
        found: CropMode = "person" if frames.detectable else "label_box"
        depth_range = self.depth_range or frames.depth_range
        if depth_range is None:
            raise ValueError(
                f"--depth_range is needed for {frames.name}, whose depth has no unit: "
                "how far before and behind the body its parts may be, in the images' "
                "own values"
            )
        return Preparation(
            side=self.side,
            crop=crop or self.crop or found,
            depth_range=depth_range,
            clip=self.make_model(1).clip,
        )

    def claim_folder(self) -> Path:
        """Returns the run's folder, made or found to be of this very config.

        Raises:
            ValueError: It holds another run, or something else.
        """
        stored = self.folder / CONFIG_FILE
        if stored.exists():
            if differences := TrainConfig.load(self.folder).differences(self):
                raise ValueError(
                    f"--run_dir={self.folder} holds a run of another config; choose "
                    "another folder, or the same flags. " + "; ".join(differences)
                )
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise ValueError(
                f"--run_dir={self.folder} is not empty and holds no config.json: it is "
                "not the folder of a run"
            )
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.save()
        return self.folder

    def save(self) -> None:
        """Writes config.json, once it is clear that the run can go on with it."""
        write_json(self.folder / CONFIG_FILE, self.to_json())

    @classmethod
    def load(cls, run_dir: Path) -> "TrainConfig":
        """Reads the config of a run.

        Raises:
            ValueError: The folder is not one of a run of this version.
        """
        return cls.from_json(read_json(run_dir / CONFIG_FILE))

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""
        fields = dataclasses.asdict(self)
        return {k: str(v) if isinstance(v, Path) else v for k, v in fields.items()}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "TrainConfig":
        """Returns the config that `to_json` wrote.

        Raises:
            ValueError: A field is missing or unknown: another version wrote it.
        """
        expected = {field.name for field in dataclasses.fields(cls)}
        fields = ADDED_FIELDS | fields
        if set(fields) != expected:
            wrong = ", ".join(sorted(set(fields) ^ expected))
            raise ValueError(f"config.json has other fields than this version: {wrong}")
        names = {field.name for field in dataclasses.fields(Augmentation)}
        if set(fields["augmentation"]) != names:
            raise ValueError("config.json: augmentation has other fields than here")
        values = {**fields, "augmentation": Augmentation(**fields["augmentation"])}
        for name in ("data_dir", "tfds_dir", "run_dir"):
            values[name] = Path(values[name]) if values[name] else None
        return cls(**values)

    def differences(self, other: "TrainConfig") -> list[str]:
        """Names the fields in which `other` would be another run, with both values."""
        mine, theirs = self.to_json(), other.to_json()
        free = FREE_FIELDS - ({"num_steps"} if self.schedule == "cosine" else set())
        return [
            f"{name}: {mine[name]} there, {theirs[name]} here"
            for name in mine
            if name not in free and mine[name] != theirs[name]
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Processes:
    """Which processes train together: no part of a run, which may go on with others."""

    distributed: bool = False
    """Train together with other processes, started by SLURM, Open MPI or by hand."""
    coordinator_address: str | None = None
    """host:port of process 0, where no launcher tells it."""
    num_processes: int | None = None
    """Processes in all, where no launcher tells it."""
    process_id: int | None = None
    """Which of them this is, from 0, where no launcher tells it."""

    def __post_init__(self) -> None:
        told = dataclasses.asdict(self)
        del told["distributed"]
        given = [f"--{k}={v}" for k, v in told.items() if v is not None]
        if given and not self.distributed:
            raise ValueError(f"{', '.join(given)}: expected --distributed as well")
        number, index = self.num_processes, self.process_id
        if number is not None and number < 1:
            raise ValueError(f"--num_processes must be at least 1, got {number}")
        if index is not None and not 0 <= index < (number or math.inf):
            raise ValueError(
                f"--process_id must be from 0 to below --num_processes={number}, got "
                f"{index}"
            )
        if self.coordinator_address and ":" not in self.coordinator_address:
            raise ValueError(
                "--coordinator_address must be host:port, got "
                f"{self.coordinator_address}"
            )


def newest_run() -> Path:
    """Returns the folder in runs/ that was trained last.

    Raises:
        ValueError: There is none.
    """
    folders = [path.parent for path in RUNS.glob(f"*/{CONFIG_FILE}")]
    if not folders:
        raise ValueError(f"no run in {RUNS}/: train one, or name it with --run_dir")
    return max(folders, key=lambda folder: (folder / CONFIG_FILE).stat().st_mtime)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Evaluates a trained network and writes tables and pictures."""

    run_dir: Path | None = None
    """Folder of the run; by default the newest in runs/."""
    dataset: str | None = None
    """A name in datasets/; by default the run's own."""
    data_dir: Path | None = None
    """Folder of the data set's own files."""
    tfds_dir: Path | None = None
    """Folder of prepared data sets; by default that of TFDS."""
    split: str = "test"
    """train, validation or test."""
    metric: str = "all"
    """pdj, pckh, map_10cm, joint_error or all."""
    memory: Literal["frozen", "rolling"] | None = None
    """Whether predictions write the memory: by default frozen, but rolling in networks
    for recordings."""
    order: Literal["shuffled", "sorted", "reversed"] = "shuffled"
    """Of the frames with rolling memory; of recordings always their own."""
    order_seed: int = 0
    """Of the shuffled order."""
    decode: str | None = None
    """How a heat map's peak becomes a joint: argmax, quarter, dark or upsampled; by
    default dark, or what the compared method has."""
    flip: bool | None = None
    """Whether to average with what is seen in the mirrored image; by default where the
    compared method does."""
    crop: CropMode | None = None
    """What the network sees of a frame; by default as in training."""
    torso: str | None = None
    """PDJ's unit: neck_to_hips or shoulder_to_hip."""
    batch_size: int = 16
    """Frames a batch."""
    network: Path | None = None
    """A network.onnx (run by OpenVINO) or network.stablehlo that export.py wrote of
    this run with frozen memory; it answers in place of the checkpoint."""
    precision: Literal["f32", "bf16"] = "f32"
    """Of network.onnx."""
    out_dir: Path | None = None
    """Where the results go; by default into the run's folder."""

    def __post_init__(self) -> None:
        if self.decode is not None:
            pick(DECODES, "decode", self.decode)
        if self.metric != "all":
            pick(METRICS, "metric", self.metric)
        if self.split not in ("train", "validation", "test"):
            raise ValueError(
                f"--split must be train, validation or test, got {self.split!r}"
            )
        if self.batch_size < 1:
            raise ValueError(f"--batch_size must be at least 1, got {self.batch_size}")
        if self.network is not None and self.memory == "rolling":
            raise ValueError(f"--network is frozen, got --memory={self.memory}")
        if self.network is not None and self.flip:
            raise ValueError("--network sees no mirrored image, got --flip")
        if self.memory == "rolling" and self.flip:
            raise ValueError("--flip goes with --memory=frozen, got rolling")


EXPORTS = ("weights", "stablehlo", "onnx")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Writes a trained network as files that run without this library."""

    run_dir: Path | None = None
    """Folder of the run; by default the newest in runs/."""
    format: str = "all"
    """weights, for cmbjax.Predictor; stablehlo, for JAX; onnx, for ONNX Runtime,
    OpenVINO and others; several joined by +; or all."""
    memory: Literal["frozen", "rolling"] = "frozen"
    """Part of the network, or an input and an output of it."""
    batch_size: int = 1
    """Frames at once; the files know no other number."""
    dataset: str | None = None
    """A name in datasets/ whose frames are used to check; by default the run's own."""
    data_dir: Path | None = None
    """Folder of the data set's own files."""
    tfds_dir: Path | None = None
    """Folder of prepared data sets; by default that of TFDS."""
    split: str = "validation"
    """train, validation or test."""
    num_frames: int = 16
    """Frames to check with, at least; two batches at least."""
    out_dir: Path | None = None
    """Replaced; by default export/<memory>_<batch_size> in the run's folder."""

    def __post_init__(self) -> None:
        if unknown := set(self.formats) - set(EXPORTS):
            raise ValueError(
                f"--format must be all, or of {', '.join(EXPORTS)} joined by +, got "
                f"{'+'.join(sorted(unknown))!r}"
            )
        if self.split not in ("train", "validation", "test"):
            raise ValueError(
                f"--split must be train, validation or test, got {self.split!r}"
            )
        for name in ("batch_size", "num_frames"):
            if getattr(self, name) < 1:
                came = getattr(self, name)
                raise ValueError(f"--{name} must be at least 1, got {came}")

    @property
    def formats(self) -> tuple[str, ...]:
        """What to write."""
        return EXPORTS if self.format == "all" else tuple(self.format.split("+"))
