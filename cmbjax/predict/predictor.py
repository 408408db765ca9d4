"""One call from a depth camera's frame to poses in pixels and metres.

Pixels: the centre of the top-left pixel is (0.5, 0.5). Camera frame: x right, y
down, z forward, metres.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np

from cmbjax.camera import default_camera
from cmbjax.depth import crops, finder, lifting
from cmbjax.depth.images import files_of, read_frame, to_millimetres
from cmbjax.heatmaps import DECODES, decode_maps
from cmbjax.predict.card import find_folder, read_card
from cmbjax.predict.runtimes import Backend, Outputs, Precision, open_runtime
from cmbjax.registry import pick
from cmbjax.skeletons import SKELETONS, Skeleton

People = Literal["nearest", "all"]
MemoryUse = Literal["frozen", "rolling"]


@dataclasses.dataclass(frozen=True, eq=False)
class Pose:
    """One person in a frame.

    Attributes:
        joints_px: [joints, 2] pixels of the frame.
        joints_m: [joints, 3] metres, camera frame.
        confidence: [joints] height of each heat map's peak, in [0, 1]. Low where a
            joint is hidden or the pose unusual; it is no probability.
        box: [x0, y0, x1, y1] pixels of the person found.
        depth_m: Depth of the person as a whole, metres.
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
        backend: str = "onnxruntime",
        precision: str = "f32",
        decode: str = "dark",
    ) -> None:
        """Loads a network.

        Args:
            network: Name of one of the package's own, or a folder that export.py wrote;
                by default people-96.
            camera: [fx, fy, cx, cy], pixels; by default a focal length of 1.07 times
                the image's height, with the centre in the middle. Metres are as wrong
                as the focal length is.
            depth_scale: Metres per unit of integer frames.
            people: The nearest person of each frame, or all.
            memory: Frozen: poses depend on their own frame alone. Rolling: the memory
                goes on being written, so frames should come as a camera gives them;
                for one person at a time.
            backend: What runs the network: onnxruntime or openvino, which need the
                folder's network.onnx, or jax, which compiles it first.
            precision: Of openvino: f32, or bf16, faster with AVX-512 or AMX.
            decode: A name in `heatmaps.DECODES`.

        Raises:
            FileNotFoundError: A file of the network is missing.
            ValueError: An argument does not go with the network, or with another.
        """
        for name, value, choices in (
            ("people", people, People),
            ("memory", memory, MemoryUse),
            ("backend", backend, Backend),
            ("precision", precision, Precision),
        ):
            if value not in get_args(choices):
                names = ", ".join(get_args(choices))
                raise ValueError(f"{name} must be one of {names}, got {value!r}")
        if memory == "rolling" and people == "all":
            raise ValueError("memory='rolling' follows one person: people='nearest'")
        pick(DECODES, "decode", decode)
        if not depth_scale > 0:
            raise ValueError(f"depth_scale must be above 0, got {depth_scale}")
        self.card = read_card(find_folder(network))
        if self.card.depth_unit != "mm" or self.card.crop != "person":
            raise ValueError(
                f"{self.card.folder} is a network for {self.card.depth_unit} depth and "
                f"crop {self.card.crop}; expected mm and person"
            )
        self.skeleton: Skeleton = SKELETONS[self.card.skeleton]
        self.camera = None if camera is None else _checked_camera(camera)
        self.depth_scale = depth_scale
        self.people, self.decode_name = people, decode
        self._runtime = open_runtime(
            self.card, memory=memory, backend=backend, precision=precision
        )
        self._memory = self._runtime.memory

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
        people = self.find(depth_mm) if boxes is None else _checked_boxes(boxes)
        views = [self.crop(depth_mm, box) for box in people]
        return [self.decode(view, self.run(view.depth), depth_mm) for view in views]

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
        self._memory = self._runtime.memory

    def read(self, frame: np.ndarray | Path | str) -> np.ndarray:
        """Returns a frame in millimetres, [height, width] uint16; see `__call__`."""
        name = "the frame"
        if isinstance(frame, str | Path):
            name, frame = str(frame), read_frame(Path(frame))
        return to_millimetres(frame, depth_scale=self.depth_scale, name=name)

    def intrinsics(self, depth_mm: np.ndarray) -> np.ndarray:
        """Returns [fx, fy, cx, cy], as it was given or is assumed."""
        return default_camera(depth_mm.shape) if self.camera is None else self.camera

    def find(self, depth_mm: np.ndarray) -> list[np.ndarray]:
        """Returns the box of each person, nearest first."""
        people = finder.find_people(depth_mm, self.intrinsics(depth_mm))
        chosen = people[:1] if self.people == "nearest" else people
        return [person.box for person in chosen]

    def crop(self, depth_mm: np.ndarray, box: np.ndarray) -> View:
        """Returns a person as the network sees it."""
        box = np.asarray(box, np.float32)
        crop = crops.look(
            depth_mm, box, side=self.card.side, depth_range=self.card.depth_range
        )
        if not crop.reference > 0:
            raise ValueError(f"the box {box.tolist()} holds no reading of the frame")
        return View(box, crop.depth[None], crop.frame_from_crop, crop.reference)

    def run(self, depth: np.ndarray) -> Outputs:
        """Returns what the network gives; a rolling memory is written."""
        outputs, self._memory = self._runtime.run(depth, self._memory)
        return outputs

    def decode(self, view: View, outputs: Outputs, depth_mm: np.ndarray) -> Pose:
        """Returns the pose in the frame and in metres."""
        camera, card = self.intrinsics(depth_mm), self.card
        decoded = decode_maps(
            outputs["heatmaps"],
            depth_maps=outputs.get("depth_maps"),
            joints=outputs.get("joints"),
            side=card.side,
            stride=card.stride,
            decode=self.decode_name,
        )
        joints_px = crops.transform_points(view.frame_from_crop, decoded.joints_px[0])
        if decoded.joints is None:
            joints_m = lifting.lift(
                depth_mm,
                joints_px,
                view.reference_mm,
                camera,
                np.array(card.offsets_m, np.float32),
                reach_mm=card.depth_range,
                limb_m=self.skeleton.limb_m,
            )
        else:
            joints_m = lifting.regressed_to_camera(
                decoded.joints[0],
                view.frame_from_crop,
                view.reference_mm,
                camera,
                side=card.side,
                depth_range=card.depth_range,
            )
        return Pose(
            joints_px=joints_px,
            joints_m=joints_m.astype(np.float32),
            confidence=np.clip(decoded.scores[0], 0, 1),
            box=view.box,
            depth_m=view.reference_mm / 1000,
        )


def _checked_camera(camera: Sequence[float] | np.ndarray) -> np.ndarray:
    checked = np.asarray(camera, np.float32)
    is_good = checked.shape == (4,) and np.isfinite(checked).all()
    if not is_good or (checked[:2] <= 0).any():
        raise ValueError(
            "camera must be [fx, fy, cx, cy] in pixels, focal lengths above 0, got "
            f"{camera}"
        )
    return checked


def _checked_boxes(boxes: np.ndarray) -> list[np.ndarray]:
    checked = np.asarray(boxes, np.float32)
    is_good = checked.ndim == 2 and checked.shape[1] == 4 and np.isfinite(checked).all()
    if not is_good or (checked[:, 2:] <= checked[:, :2]).any():
        raise ValueError(
            "boxes must be [people, 4], x0 < x1 and y0 < y1 in pixels, got "
            f"{checked.tolist()}"
        )
    return list(checked)
