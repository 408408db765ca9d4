"""The flags of train.py, and the objects that they name."""

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import optax

from cmbjax.data.augment import Augmentation
from cmbjax.data.examples import DepthFrames
from cmbjax.data.flags import HIGHEST_INTEGER, DataFlags, Flags, check_ranges
from cmbjax.data.views import Preparation
from cmbjax.depth.crops import CropMode
from cmbjax.files import checked
from cmbjax.models import MODELS
from cmbjax.models.ablations import AttachedMemory, OptimizedMemory
from cmbjax.models.cmb import ConvolutionalMemoryBlock, MemoryMode
from cmbjax.models.compared import ieml
from cmbjax.models.network import Network
from cmbjax.models.posenet import Head3d, PoseNet
from cmbjax.models.recurrent import RecurrentPoseNet
from cmbjax.registry import pick
from cmbjax.skeletons import Skeleton

# Of checks that no joint set matters to.
ONE_JOINT = Skeleton("one_joint", joints=("joint",), parents=(-1,))

# Flags that only a memory has.
MEMORY_FIELDS = ("memory_mode", "memory_gradient", "memory_lr", "memory_steps")

LEAST_WIDTH, MOST_WIDTH = 1 / 32, 8.0
# Outside of these nothing is learnt, or nothing fits.
RANGES: dict[str, tuple[float, float]] = {
    "width": (LEAST_WIDTH, MOST_WIDTH),
    "side": (16, 1024),
    "memory_lr": (0, 1e6),
    "memory_steps": (1, HIGHEST_INTEGER),
    "stream_frames": (1, HIGHEST_INTEGER),
    "depth_range": (1, 65_535),  # as 16-bit images have them, mm or raw
    "sigma": (0.1, 100),
    "learning_rate": (1e-9, 1.0),
    "decay_rate": (1e-6, 1.0),
    "decay_every": (1, HIGHEST_INTEGER),
    "r_switch_step": (0, HIGHEST_INTEGER),
    "train_share": (1e-6, 1.0),
    "log_every": (1, HIGHEST_INTEGER),
    "validate_every": (0, HIGHEST_INTEGER),
    "checkpoint_every": (1, HIGHEST_INTEGER),
}

# Runs of earlier versions do not name these.
ADDED_FIELDS = {
    "memory_steps": 1,
    "memory_gradient": False,
    "init_from": None,
    "stream_frames": 1,
}
ADDED_AUGMENTATION = {"damage": 0.0, "misses": 0.0}

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
class TrainConfig(DataFlags):
    """Trains one network on one data set. Started again in its folder, it goes on."""

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
    stream_frames: int = 1
    """Of networks that see recordings in order: frames of each stream a batch, one
    after the other. The gradient of recurrences flows back over them."""
    trunk_norm: bool = True
    """Batch normalisation in the trunk as well as in the blocks; Table 1 has none."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the computation; parameters, memory, statistics and loss are float32."""
    head3d: Head3d = "none"
    """What gives the joints' depth: dense, of heat maps by two layers of 1024 on them,
    of networks that regress joints as one more coordinate; maps, a map of depth beside
    each heat map; or none: it is looked up in the image."""
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
    init_from: str | None = None
    """Weights to start from: a name of the package's, a run's folder, or an exported
    one. What fits is taken over, and the rest is said."""
    seed: int = 0
    """Of parameters, memory, order, views and dropout."""
    log_every: int = 50
    """Steps between two records."""
    validate_every: int = 2000
    """Steps between two validations; 0 for one at the end."""
    checkpoint_every: int = 1000
    """Steps between two checkpoints."""

    def __post_init__(self) -> None:
        super().__post_init__()
        pick(MODELS, "model", self.model)
        check_ranges(self, RANGES)
        self._check_memory()
        self._check_network(self.make_model(ONE_JOINT))

    def _check_memory(self) -> None:
        """Refuses readings of the memory that do not go together."""
        if self.batch_size % self.memory_steps:
            raise ValueError(
                f"--memory_steps must divide --batch_size={self.batch_size}, got "
                f"{self.memory_steps}"
            )
        if self.memory_gradient and self.memory_steps == 1:
            raise ValueError(
                "--memory_gradient needs --memory_steps of at least 2: it flows from "
                "one part of a batch into another"
            )
        if self.memory_steps > 1 and (self.memory_lr or self.memory_mode != "shared"):
            raise ValueError(
                f"--memory_steps={self.memory_steps} goes with --memory_mode=shared "
                f"and --memory_lr=0, got {self.memory_mode} and {self.memory_lr}"
            )
        if self.stream_frames > 1 and self.memory_mode == "per_sample":
            raise ValueError(
                "--stream_frames=1 for --memory_mode=per_sample, whose streams have "
                f"one frame a batch, got {self.stream_frames}"
            )

    def _check_network(self, model: Network) -> None:
        """Refuses what this network cannot have."""
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
        if self.stream_frames > 1 and not model.sequential:
            raise ValueError(
                f"--stream_frames=1 for --model={self.model}, which sees no recordings "
                f"in order, got {self.stream_frames}"
            )
        if self.batch_size % self.stream_frames:
            raise ValueError(
                f"--batch_size must be a multiple of --stream_frames="
                f"{self.stream_frames}, got {self.batch_size}"
            )
        damages = self.augmentation.damage or self.augmentation.misses
        if damages and (model.sequential or model.num_frames > 1):
            raise ValueError(
                "--augmentation.damage and misses befall single frames, and "
                f"--model={self.model} sees recordings in one view: expected 0"
            )
        if model.sequential and self.memory_steps > 1:
            raise ValueError(
                f"--memory_steps=1 for --model={self.model}, got {self.memory_steps}"
            )

    def make_model(self, skeleton: Skeleton) -> Network:
        """Returns the network of a joint set.

        Raises:
            ValueError: A flag is one that this network does not have.
        """
        make = MODELS[self.model]
        options: dict[str, Any] = {
            "width": self.width,
            "head3d": self.head3d,
            "dtype": jnp.dtype(self.dtype),
            "num_joints": skeleton.num_joints,
        }
        model = make(**options)
        without: tuple[str, ...] = () if model.remembers else MEMORY_FIELDS
        if not isinstance(model, PoseNet):
            without += ("trunk_norm",)
        for name in without:
            if getattr(self, name) != getattr(TrainConfig, name):
                raise ValueError(
                    f"--{name}: --model={self.model} has nothing of the kind"
                )
        if isinstance(model, ieml.IEML):
            return model.clone(parents=skeleton.parents)
        if not isinstance(model, PoseNet):
            return model
        if isinstance(model, RecurrentPoseNet):
            options["stream_frames"] = self.stream_frames
        return make(
            memory_mode=self.memory_mode,
            trunk_norm=self.trunk_norm,
            **options,
            **self._block(model),
        )

    def _block(self, model: PoseNet) -> dict[str, type[ConvolutionalMemoryBlock]]:
        """Returns the block that the flags of the memory ask for."""
        block: type[ConvolutionalMemoryBlock]
        # Never both: a gradient asks for steps, which go with no rate.
        if self.memory_gradient:
            flag, block = "memory_gradient", AttachedMemory
        elif self.memory_lr:
            flag, block = "memory_lr", OptimizedMemory
        else:
            return {}
        if type(model) is not PoseNet or model.block is not ConvolutionalMemoryBlock:
            raise ValueError(
                f"--{flag} needs the memory of --model=cmb, got --model={self.model}"
            )
        return {"block": block}

    def make_sigma(self, model: Network) -> float:
        """Returns the deviation of the target heat maps' Gaussian, in cells."""
        return model.sigma if self.sigma is None else self.sigma

    def make_optimizer(self) -> optax.GradientTransformation:
        """Returns Adam with the schedule (Sec. 5, Implement Details)."""
        if self.schedule == "cosine":
            schedule = optax.cosine_decay_schedule(self.learning_rate, self.num_steps)
        else:
            schedule = optax.exponential_decay(
                self.learning_rate, self.decay_every, self.decay_rate, staircase=True
            )
        return optax.adam(schedule, b1=0.9, b2=0.999)

    def make_preparation(
        self, frames: DepthFrames, crop: CropMode | None = None
    ) -> Preparation:
        """Returns how frames become inputs; `crop` stands in for the run's own."""
        depth_range = self.depth_range or frames.depth_range
        if depth_range is None:
            raise ValueError(
                f"--depth_range is needed for {frames.name}, whose depth has no unit: "
                "how far before and behind the body its parts may be, in the images' "
                "own values"
            )
        return Preparation(
            side=self.side,
            crop=crop or self.crop or frames.crop,
            depth_range=depth_range,
            num_frames=self.make_model(ONE_JOINT).num_frames,
        )

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
        fields = ADDED_FIELDS | checked(fields, dict[str, Any], "config.json")
        if set(fields) != expected:
            wrong = ", ".join(sorted(set(fields) ^ expected))
            raise ValueError(f"config.json has other fields than this version: {wrong}")
        names = {field.name for field in dataclasses.fields(Augmentation)}
        augmentation = ADDED_AUGMENTATION | checked(
            fields["augmentation"], dict[str, Any], "config.json: augmentation"
        )
        if set(augmentation) != names:
            raise ValueError("config.json: augmentation has other fields than here")
        config: TrainConfig = checked(
            {**fields, "augmentation": augmentation}, cls, "config.json"
        )
        return config

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
class Processes(Flags):
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
        super().__post_init__()
        flags = dataclasses.asdict(self)
        del flags["distributed"]
        named = [f"--{k}={v}" for k, v in flags.items() if v is not None]
        if named and not self.distributed:
            raise ValueError(f"{', '.join(named)}: expected --distributed as well")
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
