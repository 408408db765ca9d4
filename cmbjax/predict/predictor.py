"""One call from a depth camera's frame to poses, of people or hands.

Pixels: the centre of the top-left pixel is (0.5, 0.5). Camera frame: x right, y
down, z forward, metres.
"""

import dataclasses
import numbers
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import cv2
import numpy as np

from cmbjax.calibration import presence, probabilities
from cmbjax.camera import default_camera
from cmbjax.depth import crops, detector, lifting
from cmbjax.depth.images import (
    MAX_PIXELS,
    checked_depth,
    files_of,
    read_frame,
    to_millimetres,
    without_far_value,
    without_outliers,
)
from cmbjax.files import checksum, expanded
from cmbjax.heatmaps import DECODES, decode_maps, mirrored
from cmbjax.predict.card import (
    ABOVE,
    CARD_FILE,
    ONNX_FILE,
    Card,
    MemoryUse,
    find_folder,
    read_card,
)
from cmbjax.predict.pose import (
    HIDDEN,
    OUTSIDE,
    SEEN,
    Pose,
    in_picture,
    mean_of_surest,
    side_of,
)
from cmbjax.predict.runtimes import (
    Backend,
    Memory,
    Outputs,
    Precision,
    Runtime,
    open_runtime,
)
from cmbjax.registry import pick
from cmbjax.skeletons import SKELETONS, Skeleton

SHORT = 0.5  # of a trunk's length in the image
LEAST_BOX = 2  # pixels of a side of a box that is given: boxes are no fractions
LEAST_PEAK = 0.12  # of the heat map of a joint that is in the picture
# Where a joint is out of the picture its map's highest cell is often a low one beside
# the edge: closer to it, as a part of the box's longer side, peaks are to be higher.
NEAR_EDGE, LEAST_PEAK_THERE = 0.06, 0.4
# A pose tells a person from a thing better than the detector, which sees a frame of 160
# pixels: where the card says how, what the detector is hardly sure of is posed, too.
LEAST_PRESENCE = 0.5
POSED_SCORE = 0.12  # of the detector, at least
MOST_POSED = {"nearest": 6, "all": 30}  # the surest
AT_ONCE = 3  # of these, where the nearest is asked for; the others if none is somebody
NEARLY_THE_SURER = 0.4  # of the highest of the detector's scores: those at once
NEARLY_AS_SURE = 0.85  # as the surest: the nearest of these is the nearest
# Less of a trunk's length in the image, and a pose less sure than that on the average:
# which way is up is tried.
SURE_UP, SURE_POSE = 0.75, 0.6
# No further look makes somebody of what would be nobody with joints as sure as that,
# or of what one pose says is hardly anybody.
SUREST, HARDLY_ANYBODY = 0.9, 0.1
# Mean confidence: of less, a pose is the mean of two looks.
PLAIN = {"people": 0.8, "hands": 0.7}
# Where no joint is less sure (without a calibration, has a lower peak), nothing of
# somebody is covered by what stands before the legs.
IN_SIGHT = 0.5
# Metres from neck to hips, of a small child and of a giant, and how sure a pose is that
# tells: in centimetres, or units of 1/256 m, people are found and posed as well.
TRUNKS_M, SURE_OF_TRUNK = (0.2, 0.9), 0.7
TWIN = 1.5  # times what a joint may be off to be right: nearer poses are one person's

# What a frame can be at fault for: what is none, and what takes more than there is.
FAULTS = (ValueError, OSError, MemoryError, cv2.error)

People = Literal["nearest", "all"]


class View(NamedTuple):
    """A person as the network sees it.

    Attributes:
        box: See `Pose`.
        depth: [1, side, side, 1] normalised.
        frame_from_crop: [2, 3] transform.
        reference_mm: The person's depth.
        card: Of the network.
        roll_deg: By how many degrees it was turned, clockwise.
        score: Of the detector; None of a box that was given.
        is_guess: Whether its lower edge is where the feet would be, who knows.
    """

    box: np.ndarray
    depth: np.ndarray
    frame_from_crop: np.ndarray
    reference_mm: float
    card: Card
    roll_deg: int
    score: float | None = None
    is_guess: bool = False


class Look(NamedTuple):
    """A view, the pose that the network sees in it, and what it gave."""

    view: View
    pose: Pose
    outputs: Outputs


Ask = Callable[[View, np.ndarray], Look]


class Predictor:
    """Poses of the people in depth images.

    ```python
    predictor = cmbjax.Predictor()
    for pose in predictor("frame.png"):  # or .npy, or an array
        pose.joints_m
    ```

    With `Predictor("hands")` it is hands that are found and posed, 0.2 to 1 m away.
    Threads may share one; a rolling memory is a stream's own, see `Stream`.
    """

    def __init__(
        self,
        network: Path | str | None = None,
        *,
        camera: Sequence[float] | np.ndarray | None = None,
        depth_scale: float | np.number = 0.001,
        people: str = "nearest",
        roll: int | None = None,
        memory: str = "frozen",
        backend: str = "onnxruntime",
        precision: str = "f32",
        decode: str | None = None,
        least_score: float | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        """Loads a network.

        Args:
            network: people, which is people-96, and people-above-96 for those whom the
                camera sees from above; hands, which is hands-96; another name of the
                package's own networks, or a folder that export.py wrote.
            camera: [fx, fy, cx, cy], pixels of these frames; the first pixel's centre
                is (0.5, 0.5), so that ROS and OpenCV have cx and cy smaller by half a
                pixel. By default a focal length of 1.07 times the shorter side, with
                the centre in the middle: metres are as wrong as the focal length is.
            depth_scale: Metres per unit of integer frames.
            people: The nearest person, or hand, of each frame, or all.
            roll: By how many degrees frames must be turned clockwise to be upright: 0,
                90, 180 or 270; by default each person is set upright as it is found.
            memory: Frozen: poses depend on their own frame alone. Rolling: the memory
                goes on being written, so frames should come as one camera gives them;
                for one person at a time. See `Stream`.
            backend: What runs the network: onnxruntime or openvino, which need the
                folder's network.onnx, or jax, which compiles it first.
            precision: f32; bf16 of openvino, faster with AVX-512 or AMX; or int8 of
                onnxruntime and openvino, a quarter faster and a little less exact,
                where the folder has network-int8.onnx.
            decode: A name in `heatmaps.DECODES`. By default smoothed; of hands
                smoothed_less, as fingers lie side by side.
            least_score: Of a pose that is given, see `Pose`: higher, and there are
                fewer false alarms and fewer people. By default a half, or what the
                detector says is somebody where the score is its own.
            max_pixels: Files that say they are larger are refused unread.

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
        if precision == "bf16" and backend != "openvino":
            raise ValueError(f"precision='bf16' is openvino's, got backend={backend!r}")
        if precision == "int8" and backend == "jax":
            raise ValueError("precision='int8' is of ONNX files, got backend='jax'")
        if memory == "rolling" and people == "all":
            raise ValueError("memory='rolling' follows one person: people='nearest'")
        if decode is not None:
            pick(DECODES, "decode", decode)
        if roll not in (None, 0, 90, 180, 270):
            raise ValueError(f"roll must be 0, 90, 180 or 270 degrees, got {roll}")
        for name, number, most in (
            ("depth_scale", depth_scale, np.inf),
            ("max_pixels", max_pixels, np.inf),
            ("least_score", 0.5 if least_score is None else least_score, 1),
        ):
            is_number = isinstance(number, numbers.Real)
            if not is_number or not 0 < number < most:
                raise ValueError(
                    f"{name} must be a number above 0"
                    f"{f' and below {most}' if most < np.inf else ''}, got {number!r}"
                )
        self.card = _checked_card(network)
        is_default = network is None or str(network) == "people"
        self._above = _checked_card(ABOVE) if is_default else None
        self.skeleton: Skeleton = SKELETONS[self.card.skeleton]
        self.camera = None if camera is None else _checked_camera(camera)
        self.depth_scale = float(depth_scale)
        self.people, self.roll = people, roll
        is_body = self.skeleton.found_as == "people"
        by_default = "smoothed" if is_body else "smoothed_less"
        self.decode_name = decode or by_default
        self.memory, self.max_pixels = memory, max_pixels
        self._detector = detector.shipped(self.skeleton.found_as)
        self._poses_tell = self.card.presence is not None
        default = LEAST_PRESENCE if self._poses_tell else detector.LEAST_SCORE
        self.least_score = default if least_score is None else least_score
        self._open = {"memory": memory, "backend": backend, "precision": precision}
        self._runtimes: dict[Path, Runtime] = {}
        self._opening = threading.Lock()
        self.runtime(self.card)
        if self._above is not None and backend != "jax":
            self._above.file(ONNX_FILE)  # is loaded when it is asked
        self._own_stream: tuple[int, Stream] | None = None  # and the thread's number
        self._has_doubted = False

    def runtime(self, card: Card) -> Runtime:
        """Returns the network of a card, which the first call loads."""
        with self._opening:
            if card.folder not in self._runtimes:
                self._runtimes[card.folder] = open_runtime(card, **self._open)
            return self._runtimes[card.folder]

    def checksums(self) -> dict[str, str]:
        """Returns what tells the cards of networks and detector from all others."""
        cards = [self.card] + ([] if self._above is None else [self._above])
        sums = {card.folder.name: checksum(card.folder / CARD_FILE) for card in cards}
        return sums | {"detector": checksum(detector.card_of(self.skeleton.found_as))}

    def __call__(
        self, frame: np.ndarray | Path | str, *, boxes: np.ndarray | None = None
    ) -> list[Pose]:
        """Returns the people in a frame, nearest first; none if there are none.

        Args:
            frame: [height, width] integers (see `depth_scale`; 0 = no reading) or
                floats (metres; 0, NaN and infinity = no reading), or the file of one:
                a 16-bit PNG or .npy.
            boxes: [people, 4] pixels, where people are known; looked for by default.
                There is a pose for each then, in their order; people are upright
                unless `roll` says how they are not.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is no depth image, or readings are no distances of a room in
                that unit; or a box is none, or holds no reading.

        Warns:
            UserWarning: Somebody has no human size, which another unit would explain;
                the first time.
        """
        return self.poses(self.read(frame), boxes=boxes)

    def poses(
        self, depth_mm: np.ndarray, *, boxes: np.ndarray | None = None
    ) -> list[Pose]:
        """Returns the people in a frame that `read` returned; see `__call__`.

        Raises:
            ValueError: The memory is rolling and another thread's.
        """
        if self.memory == "frozen":
            return self._doubted(self._poses(depth_mm, boxes, self.ask))
        thread = threading.get_ident()
        with self._opening:
            owner, stream = self._own_stream or (thread, Stream(self))
            self._own_stream = owner, stream
        if owner != thread:
            raise ValueError(
                "this predictor's rolling memory is another thread's; a thread opens "
                "its own by cmbjax.predict.predictor.Stream(predictor)"
            )
        return stream.poses(depth_mm, boxes=boxes)

    def _doubted(self, poses: list[Pose]) -> list[Pose]:
        """Returns poses, and warns where a trunk is not as long as people's are."""
        up = self.skeleton.up
        if self._has_doubted or up is None or self.skeleton.found_as != "people":
            return poses
        hips, neck = (list(joints) for joints in up)
        for pose in poses:
            ends = pose.joints_m[neck].mean(axis=0) - pose.joints_m[hips].mean(axis=0)
            trunk_m = float(np.linalg.norm(ends))
            is_sure = pose.confidence.mean() >= SURE_OF_TRUNK
            if is_sure and (trunk_m < TRUNKS_M[0] or trunk_m > TRUNKS_M[1]):
                self._has_doubted = True
                warnings.warn(
                    f"the trunk of somebody {pose.depth_m:.2g} m away is {trunk_m:.2g} "
                    f"m long, as a unit is {self.depth_scale:g} m and floats are "
                    "metres: another unit (depth_scale), or another camera?",
                    stacklevel=3,
                )
        return poses

    def _poses(
        self,
        depth_mm: np.ndarray,
        boxes: np.ndarray | None,
        ask: Ask,
    ) -> list[Pose]:
        depth_mm = checked_depth(depth_mm, "a frame that was read", metric=True)
        if boxes is not None:
            return [self._in_box(depth_mm, b, ask) for b in _checked_boxes(boxes)]
        people = sorted(self.find(depth_mm), key=lambda person: -person.score)
        if self.people == "all" or not self._poses_tell:
            return self._given(self._posed(depth_mm, people, ask))
        at_once = [p for p in people if p.score >= NEARLY_THE_SURER * people[0].score]
        number = len(at_once[:AT_ONCE])
        for group in (people[:number], people[number:]):
            if given := self._given(self._posed(depth_mm, group, ask)):
                return given
        return []

    def _posed(
        self, depth_mm: np.ndarray, people: list[detector.Person], ask: Ask
    ) -> list[Pose]:
        """Returns a pose of each of the people, who are in order of their scores."""
        poses: list[Pose] = []
        known: list[Pose] = []  # who may be given; what is dropped drops nobody else
        for person in people:
            pose = self.pose(depth_mm, person, ask, known=known)
            poses.append(pose)
            if pose.score >= self.least_score and not self.is_twin(pose, known):
                known.append(pose)
        return poses

    def _in_box(self, depth_mm: np.ndarray, box: np.ndarray, ask: Ask) -> Pose:
        """Returns the pose in a box; not sure, of two networks the surer one's."""
        looks: list[Look] = []
        for card in (self.card, self._above):
            if card is not None and max(map(_how_sure, looks), default=0) < SURE_POSE:
                looks.append(ask(self.crop(depth_mm, box, card=card), depth_mm))
        return self._settled(max(looks, key=_how_sure), depth_mm)

    def _given(self, poses: list[Pose]) -> list[Pose]:
        """Returns the poses of people who are there, each once, nearest first.

        Where the nearest is asked for, that one.
        """
        least = self.least_score
        if self.people == "nearest":
            surest = max((pose.score for pose in poses), default=0.0)
            least = max(least, NEARLY_AS_SURE * surest)
        given: list[Pose] = []
        for pose in sorted(poses, key=lambda pose: -pose.score):
            if pose.score >= least and not self.is_twin(pose, given):
                given.append(pose)
        given = sorted(given, key=lambda pose: pose.depth_m)
        return given[:1] if self.people == "nearest" else given

    def is_twin(self, pose: Pose, others: Sequence[Pose]) -> bool:
        """Tells whether a pose is of somebody of whom one of the others is, too."""
        limit = TWIN * self.skeleton.right_m
        return any(np.median(_distances(pose, other)) <= limit for other in others)

    def pose(
        self,
        depth_mm: np.ndarray,
        person: detector.Person,
        ask: Ask | None = None,
        *,
        known: Sequence[Pose] = (),
    ) -> Pose:
        """Returns the pose of a person who was found.

        Where the detector is not sure which way is up, and the pose is not sure, each
        quarter turn is tried. Whose legs are behind something is looked at once more,
        as far down as legs reach that go with the trunk, unless no joint is in doubt.
        What answers, and is not plain, is seen in a mirror as well, unless the memory
        is rolling. Who turns out to be one of those known, and not a surer pose, is not
        looked at again, and has the pose of the first look.

        Args:
            depth_mm: Of `read`.
            person: Of `find`.
            ask: Returns a look at a view of a frame; by default `ask`.
            known: Poses of the frame that are given unless a surer one comes.
        """
        ask = ask or self.ask
        looks = [ask(view, depth_mm) for view in self.views(depth_mm, person)]
        if self._may_be_turned(person) and max(map(_how_sure, looks)) < SURE_POSE:
            first = looks[0].view.roll_deg
            for roll_deg in (0, 90, 180, 270):
                if roll_deg != first:
                    box, card = person.body_box, self.card
                    view = self._view(depth_mm, person, box, roll_deg, card)
                    looks.append(ask(view, depth_mm))
        look = max(looks, key=_how_sure)
        surer = [pose for pose in known if pose.score >= look.pose.score]
        if self.is_twin(look.pose, surer):
            return look.pose
        if _has_hidden_legs(look, person):
            assert self.skeleton.up is not None, "only people are said to be covered"
            up, shape = self.skeleton.up, depth_mm.shape
            box = crops.standing_box(look.pose.joints_px, up, shape)
            if (box[2:] - box[:2]).min() > 1:
                roll_deg, card = look.view.roll_deg, look.view.card
                again = self._view(depth_mm, person, box, roll_deg, card)
                look = ask(again._replace(is_guess=True), depth_mm)
        return self._settled(look, depth_mm)

    def _may_be_turned(self, person: detector.Person) -> bool:
        """Tells whether the detector is not sure which way somebody is up."""
        if self.roll is not None or self.skeleton.found_as != "people":
            return False
        if np.linalg.norm(person.up) >= SURE_UP:
            return False
        if not self._poses_tell:
            return True
        most = presence(person.score, SUREST, np.array(self.card.presence))
        return bool(most >= self.least_score)

    def ask(self, view: View, depth_mm: np.ndarray) -> Look:
        """Returns a look at a view of a frame, by the memory that training left."""
        outputs = self.run(view)
        return Look(view, self.decode(view, outputs, depth_mm), outputs)

    def _settled(self, look: Look, depth_mm: np.ndarray) -> Pose:
        """Returns the pose of a look, or the mean of it and of its mirror image's.

        Whoever may be there, and of whose joints the network is not sure, is seen in a
        mirror; a network without calibration does not say how sure it is, and what it
        would write of a mirror image is not for a rolling memory.
        """
        view, pose, outputs = look
        if view.card.calibration is None or self.memory == "rolling":
            return pose
        is_plain = pose.confidence.mean() >= PLAIN[self.skeleton.found_as]
        if is_plain or pose.score < HARDLY_ANYBODY:
            return pose
        reflected = self.run(view._replace(depth=view.depth[:, :, ::-1].copy()))
        told = mirrored(reflected, self.skeleton.mirror)
        mean = {name: (outputs[name] + told[name]) / 2 for name in outputs}
        return self.decode(view, mean, depth_mm)

    def stream(
        self,
        frames: Iterable[np.ndarray | Path | str] | Path | str,
        *,
        on_error: Callable[[np.ndarray | Path | str, Exception], None] | None = None,
    ) -> Iterator[list[Pose]]:
        """Yields the people of each frame; of a folder's files in order of name.

        Args:
            frames: In the order of recording; a rolling memory is this stream's own.
            on_error: Is told of each frame that is none, and why; nobody is then in
                that frame, and the stream goes on. By default the error ends it.
        """
        if isinstance(frames, str | Path):
            frames = files_of(expanded(frames))
        run = Stream(self) if self.memory == "rolling" else self
        for frame in frames:
            try:
                poses = run(frame)
            except FAULTS as error:
                if on_error is None:
                    raise
                on_error(frame, error)
                poses = []
            yield poses

    def reset(self) -> None:
        """Sets a rolling memory back to what it was after training."""
        self._own_stream = None

    def read(self, frame: np.ndarray | Path | str) -> np.ndarray:
        """Returns a frame in millimetres, [height, width] uint16; see `__call__`.

        A far value that stands for no reading, and single pixels much nearer or farther
        than those around them, if there are many, are no readings.
        """
        name = "the frame"
        if isinstance(frame, str | Path):
            name = str(frame)
            frame = read_frame(expanded(frame), max_pixels=self.max_pixels)
        depth_mm = to_millimetres(frame, depth_scale=self.depth_scale, name=name)
        return without_outliers(without_far_value(depth_mm))

    def intrinsics(self, depth_mm: np.ndarray) -> np.ndarray:
        """Returns [fx, fy, cx, cy], as it was given or is assumed."""
        return default_camera(depth_mm.shape) if self.camera is None else self.camera

    def detect(
        self, depth_mm: np.ndarray, least_score: float = POSED_SCORE
    ) -> list[detector.Person]:
        """Returns whom, and what else, the detector sees in a frame, nearest first."""
        focal_px = float(self.intrinsics(depth_mm)[0])
        return self._detector(depth_mm, focal_px=focal_px, least_score=least_score)

    def find(self, depth_mm: np.ndarray) -> list[detector.Person]:
        """Returns whom the detector sees in a frame, nearest first.

        Where poses tell who is there, also what is hardly anybody; elsewhere, if the
        nearest is asked for, the nearest of those nearly as sure as the surest.
        """
        if not self._poses_tell:
            people = self.detect(depth_mm, self.least_score)
            return detector.nearest(people) if self.people == "nearest" else people
        people = self.detect(depth_mm)
        scores = sorted((person.score for person in people), reverse=True)
        least = min(scores[: MOST_POSED[self.people]], default=0.0)
        return [person for person in people if person.score >= least]

    def view(self, depth_mm: np.ndarray, person: detector.Person) -> View:
        """Returns a person that was found as the network sees it."""
        return self.views(depth_mm, person)[0]

    def views(self, depth_mm: np.ndarray, person: detector.Person) -> list[View]:
        """Returns a person as each network sees it that may be the right one.

        Whose trunk is short in the picture is seen from above, cut off or covered: that
        is for the network for views from above, too, and the surer one answers.
        """
        roll_deg = person.roll_deg if self.roll is None else self.roll
        cards = [self.card]
        if self._above is not None and np.linalg.norm(person.up) < SHORT:
            cards.append(self._above)
        box = person.body_box
        return [self._view(depth_mm, person, box, roll_deg, card) for card in cards]

    def _view(
        self,
        depth_mm: np.ndarray,
        person: detector.Person,
        body_box: np.ndarray,
        roll_deg: int,
        card: Card,
    ) -> View:
        view = self.crop(
            depth_mm, body_box, distance_mm=person.depth, roll_deg=roll_deg, card=card
        )
        return view._replace(box=person.box, score=person.score)

    def crop(
        self,
        depth_mm: np.ndarray,
        box: np.ndarray,
        *,
        distance_mm: float | None = None,
        roll_deg: int | None = None,
        card: Card | None = None,
    ) -> View:
        """Returns what is in a box as the network sees it; see `crops.look`."""
        box = np.asarray(box, np.float32)
        card = card or self.card
        roll_deg = (self.roll or 0) if roll_deg is None else roll_deg
        crop = crops.look(
            depth_mm,
            box,
            side=card.side,
            depth_range=card.depth_range,
            distance=distance_mm,
            roll_deg=roll_deg,
        )
        if distance_mm is None and not crop.reference > 0:
            raise ValueError(
                f"the box {box.tolist()} holds no reading of the frame, or is too thin "
                "for one"
            )
        # Of what the detector sees where no reading is: nobody, and no reason to stop.
        reference = max(crop.reference, 1.0)
        return View(
            box, crop.depth[None], crop.frame_from_crop, reference, card, roll_deg
        )

    def run(self, view: View) -> Outputs:
        """Returns what the network gives with the memory that training left."""
        runtime = self.runtime(view.card)
        outputs, _ = runtime.run(view.depth, runtime.memory)
        return outputs

    def decode(self, view: View, outputs: Outputs, depth_mm: np.ndarray) -> Pose:
        """Returns the pose in the frame and in metres."""
        camera, card = self.intrinsics(depth_mm), view.card
        name = self.decode_name
        if view.is_guess and name == "smoothed":
            name = "smoothed_open"  # feet lie beside that edge, or beyond it
        decoded = decode_maps(
            outputs["heatmaps"],
            depth_maps=outputs.get("depth_maps"),
            joints=outputs.get("joints"),
            side=card.side,
            stride=card.stride,
            decode=name,
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
        peaks = decoded.scores[0]
        confidence = np.clip(peaks, 0, 1)
        if card.calibration is not None:
            confidence = probabilities(peaks, np.array(card.calibration))
        is_inside = in_picture(joints_px, depth_mm.shape)
        is_hidden = lifting.hidden(
            depth_mm, joints_px, joints_m[:, 2], self.skeleton.thick_m
        )
        visibility = np.where(is_hidden, HIDDEN, SEEN).astype(np.uint8)
        margin = NEAR_EDGE * float((view.box[2:] - view.box[:2]).max())
        is_central = in_picture(joints_px, depth_mm.shape, margin)
        least_peak = np.where(is_central, LEAST_PEAK, LEAST_PEAK_THERE)
        visibility[~is_inside | (peaks < least_peak)] = OUTSIDE
        pose = Pose(
            joints_px=joints_px,
            joints_m=joints_m.astype(np.float32),
            confidence=confidence,
            visibility=visibility,
            box=view.box,
            depth_m=view.reference_mm / 1000,
            score=1.0 if view.score is None else view.score,
            side=side_of(joints_m, self.skeleton),
            peaks=peaks,
        )
        if view.score is None or self.card.presence is None:
            return pose
        sure = mean_of_surest(pose, depth_mm.shape)
        score = presence(view.score, sure, np.array(self.card.presence))
        return dataclasses.replace(pose, score=float(score))


class Stream:
    """The frames of one camera in order, and a rolling memory that is theirs alone.

    ```python
    stream = Stream(Predictor(memory="rolling"))
    for frame in camera:
        poses = stream(frame)
    ```

    It is for one thread; others open their own, of the same predictor.
    """

    def __init__(self, predictor: Predictor) -> None:
        """Begins with the memory that training left.

        Raises:
            ValueError: The predictor's memory is frozen.
        """
        if predictor.memory != "rolling":
            raise ValueError("a stream needs Predictor(memory='rolling')")
        self._predictor = predictor
        self._memories: dict[Path, Memory] = {}
        self._written: dict[Pose, tuple[Path, Memory]] = {}  # of this frame

    def __call__(
        self, frame: np.ndarray | Path | str, *, boxes: np.ndarray | None = None
    ) -> list[Pose]:
        """Returns the people in the next frame; see `Predictor.__call__`."""
        return self.poses(self._predictor.read(frame), boxes=boxes)

    def poses(
        self, depth_mm: np.ndarray, *, boxes: np.ndarray | None = None
    ) -> list[Pose]:
        """Returns the people in the next frame, which `Predictor.read` returned.

        What is looked at and is nobody leaves no trace in the memory.
        """
        self._written = {}
        poses = self._predictor._poses(depth_mm, boxes, self._ask)
        poses = self._predictor._doubted(poses)
        self._memories |= dict(self._written[pose] for pose in poses)
        return poses

    def _ask(self, view: View, depth_mm: np.ndarray) -> Look:
        runtime = self._predictor.runtime(view.card)
        folder = view.card.folder
        outputs, written = runtime.run(
            view.depth, self._memories.get(folder, runtime.memory)
        )
        pose = self._predictor.decode(view, outputs, depth_mm)
        self._written[pose] = folder, written
        return Look(view, pose, outputs)


def _how_sure(look: Look) -> float:
    return float(look.pose.confidence.mean())


def _has_hidden_legs(look: Look, person: detector.Person) -> bool:
    """Tells whether there is somebody whose legs what stands before them may hide."""
    pose = look.pose
    return bool(
        person.is_covered
        and look.view.roll_deg == person.roll_deg  # below is as found
        and pose.score >= HARDLY_ANYBODY
        and pose.confidence.min() < IN_SIGHT
    )


def _distances(first: Pose, second: Pose) -> np.ndarray:
    """Returns how far the joints [joints] of two poses are from one another, metres."""
    return np.linalg.norm(first.joints_m - second.joints_m, axis=1)


def _checked_card(network: Path | str | None) -> Card:
    """Reads the card of a network for people, or hands, in millimetres."""
    card = read_card(find_folder(network))
    if card.depth_unit != "mm" or card.crop != "person":
        raise ValueError(
            f"{card.folder} is a network for {card.depth_unit} depth and crop "
            f"{card.crop}; expected mm and person"
        )
    return card


def _checked_camera(camera: Sequence[float] | np.ndarray) -> np.ndarray:
    checked = _floats(camera)
    is_good = checked.shape == (4,) and np.isfinite(checked).all()
    if not is_good or (checked[:2] <= 0).any():
        raise ValueError(
            "camera must be [fx, fy, cx, cy] in pixels, focal lengths above 0, got "
            f"{camera}"
        )
    return checked


def _checked_boxes(boxes: np.ndarray) -> list[np.ndarray]:
    checked = _floats(boxes)
    if checked.shape == (0,):  # of an empty list
        return []
    is_good = checked.ndim == 2 and checked.shape[1] == 4 and np.isfinite(checked).all()
    if not is_good or (checked[:, 2:] - checked[:, :2] < LEAST_BOX).any():
        raise ValueError(
            "boxes must be [people, 4], x0, y0, x1, y1 in pixels, at least "
            f"{LEAST_BOX} wide and high, got {np.asarray(boxes, object).tolist()}"
        )
    return list(checked)


def _floats(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Returns an array, which is NaN where the values are no numbers of one shape."""
    try:
        return np.asarray(values, np.float32)
    except (TypeError, ValueError):
        return np.full(4, np.nan, np.float32)
