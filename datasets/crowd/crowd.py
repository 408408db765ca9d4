"""TFDS builder of whole frames of rooms, with no person in them or several."""

import numpy as np
import tensorflow_datasets as tfds

from datasets.crowd.frames import FRAMES_PER_GROUP, make_frames
from datasets.people.people import People, PeopleConfig


class Crowd(People):
    """Up to five people in furnished rooms, before any camera in any place.

    A config's train, validation and test are numbers of groups of people, of 40 frames
    each.
    """

    VERSION = tfds.core.Version("1.0.0")
    make_frames = staticmethod(make_frames)
    frames_per_person = FRAMES_PER_GROUP
    people_per_part = 1
    BUILDER_CONFIGS = [
        PeopleConfig(
            name="crowd",
            description="9,200 frames, ITOP's joints.",
            train=200,
            validation=10,
            test=20,
        ),
        PeopleConfig(
            name="tiny",
            description="A few frames without motion capture, for tests.",
            captured=False,
            train=1,
            validation=1,
            test=1,
        ),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        joints = self.skeleton.num_joints

        def people(*shape: int, dtype: type = np.float32) -> tfds.features.Tensor:
            return tfds.features.Tensor(shape=(None, *shape), dtype=dtype)

        features = {
            "depth": tfds.features.Image(
                shape=(None, None, 1), dtype=np.uint16, encoding_format="png"
            ),
            "boxes": people(4),
            "depths_m": people(),
            "joints_px": people(joints, 2),
            "joints_m": people(joints, 3),
            "inside": people(joints, dtype=np.bool_),
            "hidden": people(joints, dtype=np.bool_),
            "camera": tfds.features.Tensor(shape=(4,), dtype=np.float32),
            "frame": tfds.features.Text(),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(
                {"skeleton": self.skeleton.name, "depth_unit": "mm"}
            ),
        )
