"""TFDS builder of hands before depth cameras."""

import dataclasses
import functools

import tensorflow_datasets as tfds

from datasets.crowd.crowd import Crowd
from datasets.hands.frames import FRAMES_PER_PERSON, fields, make_frames
from datasets.people.people import MakeFrames, PeopleConfig


@dataclasses.dataclass
class HandsConfig(PeopleConfig):
    """Size and kind of the data set; train, validation and test are people.

    Attributes:
        astar: Whether frames are as ASTAR's: see `frames.make_frames`.
    """

    captured: bool = False
    skeleton: str = "hand21"
    astar: bool = False


class Hands(Crowd):
    """Hands of many people, alone or before their bodies, holding things or nothing.

    There are 40 frames of each person.
    """

    VERSION = tfds.core.Version("1.0.0")
    frames_per_person = FRAMES_PER_PERSON
    people_per_part = 1
    fields = staticmethod(fields)
    BUILDER_CONFIGS = [
        HandsConfig(
            name="hands",
            description="22,800 frames, a wrist and four joints a finger.",
            train=500,
            validation=20,
            test=50,
        ),
        HandsConfig(
            name="astar",
            description="ASTAR's 435 and 435 frames, nearly, and its 20 joints.",
            skeleton="hand20",
            train=11,
            validation=2,
            test=11,
            astar=True,
        ),
        HandsConfig(
            name="tiny",
            description="A few frames, for tests.",
            train=1,
            validation=1,
            test=1,
        ),
    ]

    @property
    def make_frames(self) -> MakeFrames:
        """Yields the frames of a person, in a process of its own."""
        return functools.partial(make_frames, astar=self.builder_config.astar)
