"""One call from a depth camera's frame to poses in pixels and metres.

Pixels: the centre of the top-left pixel is (0.5, 0.5). Camera frame: x right, y
down, z forward, metres.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np
from jaxtyping import Float

from cmbjax import card, crops, deploy, detection, formats, lifting, pipeline
from cmbjax.camera import default_camera
from cmbjax.files import read_json
from cmbjax.config import TrainConfig
from cmbjax.evaluation import head_to_camera
from cmbjax.depth.images import files_of, read_frame, to_millimetres
from cmbjax.heatmaps import DECODES
from cmbjax.models.posenet import PoseNet
from cmbjax.registry import pick
from cmbjax.skeletons import SKELETONS, Skeleton

PRETRAINED = Path(__file__).parent / "weights"

Backend = Literal["jax", "onnxruntime", "openvino"]
Choice = Literal["nearest", "all"]
Memory = Literal["frozen", "rolling"]
Precision = Literal["f32", "bf16"]
Camera = Float[np.ndarray, "fx_fy_cx_cy=4"]
Arrays = tuple[Any, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Pose:
    """One person in a frame.

    Attributes:
        joints_px: [joints, 2] pixels of the frame.
        joints_m: [joints, 3] metres, camera frame.
        confidence: [joints] height of each heat map's peak, in [0, 1]. Low where a
            joint is hidden or the pose unusual; it is no probability.
        box: [x0, y0, x1, y1] pixels of the person found.
        depth_m: Of the person as a whole.
    """

    joints_px: np.ndarray
    joints_m: np.ndarray
    confidence: np.ndarray
    box: np.ndarray
    depth_m: float


class View(NamedTuple):
    """A person as the network sees it.

    Attributes:
        box: See `Pose`.
        depth: [1, side, side, 1] normalised.
        frame_from_crop: [2, 3] transform.
        reference_mm: The person's depth.
    """

    box: np.ndarray
    depth: np.ndarray
    frame_from_crop: np.ndarray
    reference_mm: float


class Predictor:
    """Poses of the people in depth images.

    ```python
    predictor = cmbjax.Predictor()
    for pose in predictor("frame.png"):  # or .npy, or an array
        pose.joints_m
    ```
    """

    def __init__(
        self,
        network: Path | str | None = None,
        *,
        camera: Sequence[float] | np.ndarray | None = None,
        depth_scale: float = 0.001,
        people: str = "nearest",
        memory: str = "frozen",
        backend: str = "jax",
        precision: str = "f32",
        decode: str = "dark",
    ) -> None:
        """Loads a network and compiles it.

        Args:
            network: Folder that export.py wrote; by default the pretrained network.
            camera: [fx, fy, cx, cy], pixels; by default a focal length of 1.07 times
                the image's height, with the centre in the middle. Metres are as wrong
                as the focal length is.
            depth_scale: Metres per unit of integer frames.
            people: The nearest person of each frame, or all.
            memory: Frozen: poses depend on their own frame alone. Rolling: the memory
                goes on being written, so frames should come as a camera gives them;
                for one person at a time.
            backend: What runs the network: jax, or onnxruntime or openvino, which need
                the folder's network.onnx.
            precision: Of openvino: f32, or bf16, faster with AVX-512 or AMX.
            decode: A name in `heatmaps.DECODES`.

        Raises:
            FileNotFoundError: A file of the network is missing.
            ValueError: An argument does not go with the network, or with another.
        """
        for name, value, choices in (
            ("people", people, Choice),
            ("memory", memory, Memory),
            ("backend", backend, Backend),
            ("precision", precision, Precision),
        ):
            if value not in get_args(choices):
                known = ", ".join(get_args(choices))
                raise ValueError(f"{name} must be one of {known}, got {value!r}")
        if memory == "rolling" and people == "all":
            raise ValueError("memory='rolling' follows one person: people='nearest'")
        pick(DECODES, "decode", decode)
        if not depth_scale > 0:
            raise ValueError(f"depth_scale must be above 0, got {depth_scale}")
        folder = PRETRAINED if network is None else Path(network)
        if not (folder / card.CARD_FILE).is_file():
            raise FileNotFoundError(
                f"{folder} holds no {card.CARD_FILE}; expected a folder that export.py "
                "wrote"
            )
        self.card = read_json(folder / card.CARD_FILE)
        if self.card["depth_unit"] != "mm" or self.card["crop"] != "person":
            raise ValueError(
                f"{folder} is a network for {self.card['depth_unit']} depth and crop "
                f"{self.card['crop']}; expected mm and person"
            )
        self.skeleton: Skeleton = SKELETONS[self.card["skeleton"]]
        self.preparation = pipeline.Preparation(
            side=self.card["side"], crop="person", depth_range=self.card["depth_range"]
        )
        self.model = TrainConfig.from_json(self.card["config"]).make_model(
            self.skeleton.num_joints
        )
        self.camera = None if camera is None else _checked_camera(camera)
        self.depth_scale = depth_scale
        self.people, self.decode_name = people, decode
        self._network, self._first_memory = _load(
            folder, self.card, memory, backend, precision
        )
        self._memory = self._first_memory

    def __call__(
        self, frame: np.ndarray | Path | str, *, boxes: np.ndarray | None = None
    ) -> list[Pose]:
        """Returns the people in a frame, nearest first; none if there are none.

        Args:
            frame: [height, width] integers (see `depth_scale`; 0 = no reading) or
                floats (metres; 0, NaN and infinity = no reading), or the file of one:
                a 16-bit PNG or .npy.
            boxes: [people, 4] pixels, where people are known; looked for by default.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is no depth image, or one of other units; or a box is none,
                or holds no reading.
        """
        return self.poses(self.read(frame), boxes=boxes)

    def poses(
        self, depth_mm: np.ndarray, *, boxes: np.ndarray | None = None
    ) -> list[Pose]:
        """Returns the people in a frame that `read` returned; see `__call__`."""
        found = self.find(depth_mm) if boxes is None else _checked_boxes(boxes)
        return [
            self.decode(view, self.run(view.depth), depth_mm)
            for view in (self.crop(depth_mm, box) for box in found)
        ]

    def stream(
        self, frames: Iterable[np.ndarray | Path | str] | Path | str
    ) -> Iterator[list[Pose]]:
        """Yields the people of each frame; of a folder's files in order of name."""
        if isinstance(frames, str | Path):
            frames = files_of(Path(frames))
        for frame in frames:
            yield self(frame)

    def reset(self) -> None:
        """Sets a rolling memory back to what it was after training."""
        self._memory = self._first_memory

    def read(self, frame: np.ndarray | Path | str) -> np.ndarray:
        """Returns a frame in millimetres, [height, width] uint16; see `__call__`."""
        name = "the frame"
        if isinstance(frame, str | Path):
            name, frame = str(frame), read_frame(Path(frame))
        return to_millimetres(frame, depth_scale=self.depth_scale, name=name)

    def intrinsics(self, depth_mm: np.ndarray) -> Camera:
        """Returns [fx, fy, cx, cy], given or assumed."""
        return default_camera(depth_mm.shape) if self.camera is None else self.camera

    def find(self, depth_mm: np.ndarray) -> list[np.ndarray]:
        """Returns the box of each person, nearest first."""
        people = detection.find_people(depth_mm, self.intrinsics(depth_mm))
        chosen = people[:1] if self.people == "nearest" else people
        return [person.box for person in chosen]

    def crop(self, depth_mm: np.ndarray, box: np.ndarray) -> View:
        """Returns a person as the network sees it."""
        box = np.asarray(box, np.float32)
        view = pipeline.view(depth_mm, box, box, self.preparation)
        if not view["reference"] > 0:
            raise ValueError(f"the box {box.tolist()} holds no reading of the frame")
        return View(
            box, view["depth"][None], view["frame_from_crop"], float(view["reference"])
        )

    def run(self, depth: np.ndarray) -> Arrays:
        """Returns what the network gives; a rolling memory is written."""
        outputs = formats.as_tuple(self._network(depth, *self._memory))
        kept = len(outputs) - len(self._memory)
        self._memory = outputs[kept:]
        return outputs[:kept]

    def decode(self, view: View, outputs: Arrays, depth_mm: np.ndarray) -> Pose:
        """Returns the pose in the frame and in metres."""
        side, camera = self.preparation.side, self.intrinsics(depth_mm)
        inside, scores, joints = self.model.decode(
            outputs, side=side, decode=self.decode_name
        )
        joints_px = crops.transform_points(view.frame_from_crop, inside[0])
        if joints is None:
            joints_m = lifting.lift(
                depth_mm,
                joints_px,
                view.reference_mm,
                camera,
                np.array(self.card["offsets_m"], np.float32),
                reach_mm=self.preparation.depth_range,
                limb_m=self.skeleton.limb_m,
            )
        else:
            joints_m = head_to_camera(
                joints[0],
                view.frame_from_crop,
                view.reference_mm,
                camera,
                preparation=self.preparation,
            )
        return Pose(
            joints_px=joints_px,
            joints_m=joints_m.astype(np.float32),
            confidence=np.clip(scores[0], 0, 1),
            box=view.box,
            depth_m=view.reference_mm / 1000,
        )


def _checked_camera(camera: Sequence[float] | np.ndarray) -> Camera:
    checked = np.asarray(camera, np.float32)
    good = checked.shape == (4,) and np.isfinite(checked).all()
    if not good or (checked[:2] <= 0).any():
        raise ValueError(
            "camera must be [fx, fy, cx, cy] in pixels, focal lengths above 0, got "
            f"{camera}"
        )
    return checked


def _checked_boxes(boxes: np.ndarray) -> list[np.ndarray]:
    checked = np.asarray(boxes, np.float32)
    good = checked.ndim == 2 and checked.shape[1] == 4 and np.isfinite(checked).all()
    if not good or (checked[:, 2:] <= checked[:, :2]).any():
        raise ValueError(
            "boxes must be [people, 4], x0 < x1 and y0 < y1 in pixels, got "
            f"{checked.tolist()}"
        )
    return list(checked)


def _load(
    folder: Path, about: card.Card, memory: str, backend: str, precision: str
) -> tuple[Callable[..., Any], Arrays]:
    """Returns the network as a function of depth and memory, and that memory."""
    rolling = memory == "rolling"
    if backend == "jax":
        model, variables = card.load_weights(folder, about)
        assert isinstance(model, PoseNet), "export.py writes no other"
        network = formats.forms(model, variables, r=about["r"], rolling=rolling)
        values = tuple(network.memory.values())
        if rolling and not values:
            raise ValueError(f"memory='rolling': {about['model']} has no memory")
        if any(value.ndim == 4 and len(value) != 1 for value in values):
            raise ValueError(
                "memory='rolling': this network's per_sample memory has slots for a "
                f"batch of {len(values[0])}, and a stream has one frame at a time"
            )
        if rolling:
            return jax.jit(network.folded), values
        return deploy.compile_for(network.folded, side=about["side"]), ()
    if about["memory"] != memory or about["batch_size"] != 1:
        raise ValueError(
            f"{folder} holds a {about['memory']} network for {about['batch_size']} "
            f"frames at once; backend {backend} needs a {memory} one for 1: see "
            "export.py --memory --batch_size"
        )
    path = folder / formats.ONNX_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there; backend {backend} needs it (export.py --format=onnx)"
        )
    formats.require_onnx()
    values = ()
    if rolling:
        stored = np.load(folder / formats.MEMORY_FILE)
        values = tuple(stored.values())
    if backend == "openvino":
        return formats.run_openvino(path, precision=precision), values
    return formats.run_onnxruntime(path), values
