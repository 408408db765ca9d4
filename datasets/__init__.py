"""TFDS builders of labelled depth frames, one folder each, and how to load one."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from cmbjax.models import pick
from cmbjax.skeletons import SKELETONS, Skeleton
from datasets.astar.astar import Astar
from datasets.folder.folder import Folder
from datasets.itop.itop import Itop
from datasets.k2hpd.k2hpd import K2hpd
from datasets.mannequin.mannequin import Mannequin


@dataclasses.dataclass(frozen=True)
class DepthFrames:
    """One split of a data set.

    Attributes:
        source: Random access to examples (`schema.features`), images still encoded.
        skeleton: The labelled joints.
        metric: Whether depth is in millimetres.
    """

    source: Sequence[dict]
    skeleton: Skeleton
    metric: bool
