"""TFDS builder of whole frames of rooms, with no person in them or several."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from cmbjax.data import detection
from cmbjax.data.examples import Example, frame_name
from datasets.crowd import labels
from datasets.crowd.frames import ABOVE, FRAMES_PER_GROUP, MANY, make_frames
from datasets.people.people import MakeFrames, People, PeopleConfig

LEAST_SEEN = 4  # joints of a person who is to be posed


@dataclasses.dataclass
class CrowdConfig(PeopleConfig):
    """Size and kind of the data set; train, validation and test are groups of people.

    Attributes:
        above: Whether every camera looks down at the people from the ceiling.
        many: Whether every frame has five people or more.
    """

    above: bool = False
    many: bool = False


class Crowd(People):
    """People in furnished rooms, before any camera in any place.

    A config's train, validation and test are numbers of groups of people, of 40 frames
    each.
    """

    VERSION = tfds.core.Version("1.2.0")
    frames_per_person = FRAMES_PER_GROUP
    people_per_part = 1
    fields = staticmethod(labels.fields)
    BUILDER_CONFIGS = [
        CrowdConfig(
            name="crowd",
            description="21,200 frames, ITOP's joints.",
            train=500,
            validation=10,
            test=20,
        ),
        CrowdConfig(
            name="above",
            description="13,200 frames of cameras that look straight down.",
            train=300,
            validation=10,
            test=20,
            above=True,
        ),
        CrowdConfig(
            name="many",
            description="7,200 frames of five to ten people each.",
            train=150,
            validation=10,
            test=20,
            many=True,
        ),
        CrowdConfig(
            name="tiny",
            description="A few frames without motion capture, for tests.",
            captured=False,
            train=1,
            validation=1,
            test=1,
        ),
    ]

    @property
    def make_frames(self) -> MakeFrames:
        """Yields the frames of a group, in a process of its own."""
        if self.builder_config.above:
            return functools.partial(make_frames, mountings=ABOVE, towards_camera=False)
        if self.builder_config.many:
            return functools.partial(make_frames, odds=MANY)
        return make_frames

    def _info(self) -> tfds.core.DatasetInfo:
        of_each = {
            name: tfds.features.Tensor(shape=(None, *shape), dtype=kind)
            for name, (shape, kind) in self.fields(self.skeleton.num_joints).items()
        }
        features = {
            "depth": tfds.features.Image(
                shape=(None, None, 1), dtype=np.uint16, encoding_format="png"
            ),
            **of_each,
            "camera": tfds.features.Tensor(shape=(4,), dtype=np.float32),
            "frame": tfds.features.Text(),
        }
        return self.described(tfds.features.FeaturesDict(features))

    def whole_frames(self, split: str) -> Sequence[Any]:
        """Returns the frames of a split with everybody in them; images stay PNGs."""
        return super().examples_of(split)

    def examples_of(self, split: str) -> Sequence[Example]:
        """Returns the people of a split as examples of their own; see `EachPerson`."""
        return EachPerson(self.whole_frames(split))


class EachPerson(Sequence[Example]):
    """Each person of whole frames as an example of its own.

    Those of whom at least `LEAST_SEEN` joints are seen. Beside what schema.py names, an
    example has `box` [4], of what of the body is in the picture, `distance_m`, the
    median depth of what is seen, and `labelled` [joints], which joints have a place;
    `visible` are those in the picture.
    """

    def __init__(self, frames: Sequence[Any]) -> None:
        """Takes examples of `Crowd`, and looks who is in them."""
        self._frames = frames
        self._places = [
            (number, person)
            for number in range(len(frames))
            for person in np.flatnonzero(
                detection.joints_seen(frames[number]) >= LEAST_SEEN
            ).tolist()
        ]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        number, person = self._places[index]
        frame = self._frames[number]
        one = slice(person, person + 1)
        joints_px, inside = frame["joints_px"][one], frame["inside"][one]
        boxes = detection.body_boxes(frame["boxes"][one], joints_px, inside)
        name = frame_name(frame)
        return {
            "depth": frame["depth"],
            "joints_px": joints_px[0],
            "joints_m": frame["joints_m"][person],
            "visible": inside[0],
            "labelled": np.isfinite(joints_px[0]).all(axis=1),
            "hidden": frame["hidden"][person],
            "box": boxes[0],
            "distance_m": frame["depths_m"][person],
            "camera": frame["camera"],
            "frame": f"{name}_{person}",
            "subject": name.rsplit("_", 1)[0],
        }
