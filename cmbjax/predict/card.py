"""The card of an exported network: what must be known to run it, and to trust it."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from cmbjax.depth.crops import CropMode
from cmbjax.files import (
    Finite,
    as_json,
    checked,
    checksum,
    expanded,
    read_json,
    write_json,
)
from cmbjax.skeletons import SKELETONS

CARD_FILE = "card.json"
WEIGHTS_FILE = "weights.npz"
STABLEHLO_FILE = "network.stablehlo"
ONNX_FILE = "network.onnx"
INT8_FILE = "network-int8.onnx"
MEMORY_FILE = "memory.npz"

FORMAT = 2  # of cards; the first had a run's flags in place of the network's arguments
WEIGHTS = Path(__file__).parents[1] / "weights"  # a folder each of the package's own
DEFAULT, ABOVE = "people-96", "people-above-96"
NAMES = {"people": DEFAULT, "hands": "hands-96"}  # of what is to be posed

DIGEST = "sha256"  # field of a card: the checksum of all others
# Fields that nothing here needs, for who reads a card.
TOLD = {
    "format",
    "model",
    "parameters",
    "config",
    "trained_on",
    "mean_with",
    "mean_share",
    "command",
    "evaluations",
    "crop_margin",
    "dtype",
    "frames",
    "versions",
    "differences",
    "inputs",
    DIGEST,
}
# What the first format says of a network among its run's flags.
NETWORK_FLAGS = ("width", "head3d", "memory_mode", "trunk_norm")

Above0 = Annotated[float, msgspec.Meta(gt=0, lt=1e6)]
Count = Annotated[int, msgspec.Meta(ge=1, lt=10**6)]
MemoryUse = Literal["frozen", "rolling"]
MemoryMode = Literal["shared", "per_sample"]
Shapes = Mapping[str, tuple[int, ...]]  # by name


class Arguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What makes a network again.

    Attributes:
        name: In MODELS.
        num_joints: See `models.Network`, as width and head3d.
        memory_mode: See `models.PoseNet`, as trunk_norm.
    """

    name: str
    num_joints: Count
    width: Annotated[float, msgspec.Meta(gt=0, le=64)]
    head3d: Literal["none", "dense", "maps"]
    memory_mode: MemoryMode
    trunk_norm: bool


@dataclasses.dataclass(frozen=True)
class FileEntry:
    """What a card says of a file.

    Attributes:
        bytes: Its size.
        sha256: Its checksum.
    """

    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Card:
    """What an exported folder says of its network.

    Attributes:
        folder: Where it lies.
        network: What makes it again.
        run: The run that it is of.
        step: Steps that it was trained for.
        skeleton: Name of the joint set.
        joints: Names of the joints.
        side: Of the input, pixels.
        crop: What the input shows of a frame.
        depth_range: See `depth.crops.normalise`, in `depth_unit`.
        depth_unit: "mm" or "raw".
        stride: Pixels of the input per cell of a heat map.
        offsets_m: Of each joint behind the surface, metres; None without a unit.
        memory: "frozen" or "rolling", in the files but for the weights.
        memory_mode: "shared" or "per_sample".
        r: Bound of Eq. 2.
        batch_size: Frames at once, in the files but for the weights.
        calibration: Of each joint's heat map, offset and slope, see
            `calibration.probabilities`; None where it was not measured.
        presence: Coefficients of `calibration.presence`; None where these were not.
        outputs: Shape of what the files return, by name, in their order.
        files: Size and checksum of each file, by name.
    """

    folder: Path
    network: Arguments
    run: str | None
    step: int
    skeleton: Literal[tuple(SKELETONS)]  # type: ignore[valid-type]
    joints: tuple[str, ...]
    side: Annotated[int, msgspec.Meta(ge=8, le=4096)]
    crop: CropMode
    depth_range: Above0
    depth_unit: Literal["mm", "raw"]
    stride: Annotated[int, msgspec.Meta(ge=1, le=64)]
    offsets_m: tuple[Finite | None, ...]
    memory: MemoryUse
    memory_mode: MemoryMode
    r: Above0
    batch_size: Count
    calibration: tuple[tuple[Finite, Finite], ...] | None
    presence: tuple[Finite, Finite, Finite] | None
    outputs: dict[str, tuple[Count, ...]]
    files: dict[str, FileEntry]

    def file(self, name: str) -> Path:
        """Returns the path of a file of the folder, which is as it was exported.

        Raises:
            FileNotFoundError: There is none.
            ValueError: It is damaged.
        """
        path = self.folder / name
        if name not in self.files or not path.is_file():
            kinds = {WEIGHTS_FILE: "weights", INT8_FILE: "onnx+weights+int8"}
            kind = kinds.get(name, Path(name).suffix[1:])
            raise FileNotFoundError(f"{path} is not there (export.py --format={kind})")
        told = self.files[name]
        if path.stat().st_size != told.bytes or checksum(path) != told.sha256:
            raise ValueError(
                f"{path} is damaged: its size or checksum is not that of {CARD_FILE}"
            )
        return path


def write_card(folder: Path, about: Mapping[str, Any]) -> None:
    """Writes the card of a folder, with the checksum of what it says."""
    told = {name: value for name, value in about.items() if name != DIGEST}
    write_json(folder / CARD_FILE, told | {DIGEST: _digest(told)})


def amend(card: Card, **fields: Any) -> None:
    """Writes fields into the file of a card, which itself stays as it was read.

    Raises:
        ValueError: The file is damaged.
    """
    read_card(card.folder)
    write_card(card.folder, read_json(card.folder / CARD_FILE) | fields)


def _digest(told: Mapping[str, Any]) -> str:
    """Returns the checksum of what a card says, in this order and however laid out."""
    return hashlib.sha256(as_json(told).encode()).hexdigest()


def find_folder(network: Path | str | None) -> Path:
    """Returns the folder of a network: of the package's weights by name, or as given.

    Raises:
        FileNotFoundError: There is no such folder; names the package's weights.
    """
    name = "people" if network is None else str(network)
    name = NAMES.get(name, name)
    folder = WEIGHTS / name
    if not (folder / CARD_FILE).is_file():
        folder = expanded(name)
    if not (folder / CARD_FILE).is_file():
        cards = WEIGHTS.glob(f"*/{CARD_FILE}")
        names = ", ".join(sorted(path.parent.name for path in cards))
        raise FileNotFoundError(
            f"{folder} holds no {CARD_FILE}; expected a folder that export.py wrote, "
            f"or one of the package's own networks: {names}"
        )
    return folder


def read_card(folder: Path) -> Card:
    """Reads the card of an exported folder, of this or of the first format.

    Raises:
        ValueError: It is damaged, of another format, or lacks something. Cards of
            earlier versions have no checksum, and only their fields can tell.
    """
    path = folder / CARD_FILE
    stored = read_json(path)
    if not isinstance(stored, dict):
        raise ValueError(f"{path}: expected an object, got {type(stored).__name__}")
    told = {name: value for name, value in stored.items() if name != DIGEST}
    if "format" not in stored and "config" in stored:
        stored = _from_first_format(stored)
    if stored.get("format") != FORMAT:
        raise ValueError(
            f"{path} has the format {stored.get('format')}; this version of cmbjax "
            f"reads {FORMAT}: export the network again"
        )
    for name in ("calibration", "presence"):  # of earlier versions
        stored.setdefault(name, None)
    names = {field.name for field in dataclasses.fields(Card)} - {"folder"}
    if missing := sorted(names - stored.keys()):
        raise ValueError(f"{path} lacks {', '.join(missing)}: export the network again")
    if unknown := sorted(stored.keys() - names - TOLD):
        raise ValueError(f"{path} has fields that no card has: {', '.join(unknown)}")
    card: Card = checked(stored | {"folder": str(folder)}, Card, str(path))
    expected = SKELETONS[card.skeleton].joints
    per_joint = (card.joints, card.offsets_m, card.calibration or card.joints)
    numbers = {card.network.num_joints, *map(len, per_joint)}
    if card.joints != expected or numbers != {len(expected)}:
        raise ValueError(
            f"{path}: joints, offsets_m, calibration and network.num_joints must be of "
            f"the {len(expected)} joints of {card.skeleton}"
        )
    cells = card.side // card.stride
    heatmaps = (card.batch_size, cells, cells, len(expected))
    if card.outputs.get("heatmaps") != heatmaps:
        raise ValueError(
            f"{path}: batch_size, side, stride and joints make heat maps of "
            f"{list(heatmaps)}, but outputs are {listed(card.outputs)}"
        )
    if DIGEST in stored and stored[DIGEST] != _digest(told):
        raise ValueError(
            f"{path} is damaged: what it says has another checksum than its {DIGEST}"
        )
    return card


def listed(shapes: Shapes) -> str:
    """Returns names and shapes, for errors."""
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())


def _from_first_format(stored: dict[str, Any]) -> dict[str, Any]:
    """Returns a card of the first format in this one."""
    flags = stored["config"]
    if not isinstance(flags, dict) or not isinstance(stored.get("joints"), list):
        return stored
    network = {name: flags[name] for name in NETWORK_FLAGS if name in flags}
    network |= {"name": stored.get("model"), "num_joints": len(stored["joints"])}
    return {**stored, "format": FORMAT, "network": network}
