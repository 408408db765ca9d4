"""A MuJoCo body under construction: geoms, hinges and joint sites of one person."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import mujoco
import numpy as np

from cmbjax.skeletons import BODY15
from datasets.simulation.anatomy import LIMITS, NOBODY

Point = Sequence[float]


def label(joint: str) -> int:
    """Returns the body-part label of what belongs to a joint."""
    return 1 + BODY15.joints.index(joint)


@dataclasses.dataclass
class Part:
    """A body whose lengths are given in metres at size 1.

    Attributes:
        body: What is built.
        size: Of the person.
        bit: Collision group (contype).
        mask: Groups that it may not sink into (conaffinity).
    """

    body: mujoco.MjsBody
    size: float
    bit: int = 0
    mask: int = 0

    def child(self, at: Point, hinges: Mapping[str, Point], **groups: int) -> "Part":
        """Adds a body; `hinges` are the axes of joints named in `LIMITS`."""
        body = self.body.add_body(pos=np.multiply(at, self.size))
        for name, axis in hinges.items():
            body.add_joint(
                name=name,
                type=mujoco.mjtJoint.mjJNT_HINGE,
                axis=axis,
                range=np.radians(LIMITS[name]),
                armature=1.0,  # hands and feet alone are too light to invert
            )
        return Part(body, self.size, **groups)

    def capsule(
        self, label: int, radius: float, start: Point, end: Point, solid: bool = True
    ) -> None:
        """Adds a capsule; one that is not solid sinks into everything."""
        self._add(
            label,
            solid,
            type=mujoco.mjtGeom.mjGEOM_CAPSULE,
            size=[self.size * radius, 0, 0],
            fromto=np.multiply([*start, *end], self.size),
        )

    def ellipsoid(
        self,
        label: int,
        half_axes: Point | np.ndarray,
        centre: Point,
        solid: bool = True,
        lean: float = 0.0,
    ) -> None:
        """Adds an ellipsoid, turned about x by `lean` radians."""
        self._add(
            label,
            solid,
            type=mujoco.mjtGeom.mjGEOM_ELLIPSOID,
            size=np.multiply(half_axes, self.size),
            pos=np.multiply(centre, self.size),
            quat=[np.cos(lean / 2), np.sin(lean / 2), 0, 0],
        )

    def _add(self, label: int, solid: bool, **geom: Any) -> None:
        self.body.add_geom(
            userdata=[label],
            contype=self.bit if solid else 0,
            conaffinity=(self.mask if solid else 0) | NOBODY,
            **geom,
        )

    def mark(self, joint: str, at: Point) -> None:
        """Adds the site of a labelled joint."""
        self.body.add_site(name=joint, pos=np.multiply(at, self.size))
