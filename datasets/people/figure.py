"""A human mesh: anny's body of a sampled shape, dressed and posed, and its joints.

Without rotation the person faces -y, x is to the left and z up; metres.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse
from scipy.spatial import ConvexHull
from scipy.spatial.transform import Rotation

from datasets.people.motion import SEGMENTS
from datasets.simulation.solids import Solid

# How the bones of anny's rig (by the start of the name, without the side) share the
# rotations of two segments: the one before, the one after, and the part of the latter.
BONES = {
    "root": ("pelvis", "pelvis", 1.0),
    "pelvis": ("pelvis", "pelvis", 1.0),
    "spine05": ("pelvis", "waist", 0.5),
    "spine04": ("pelvis", "waist", 1.0),
    "spine03": ("waist", "chest", 0.35),
    "spine02": ("waist", "chest", 0.7),
    "spine01": ("chest", "chest", 1.0),
    "neck01": ("chest", "head", 0.25),
    "neck02": ("chest", "head", 0.5),
    "neck03": ("chest", "head", 0.75),
    "head": ("head", "head", 1.0),
    "eye": ("head", "head", 1.0),
    "clavicle": ("chest", "upper_arm", 0.1),
    "shoulder01": ("chest", "upper_arm", 0.2),
    "upperarm": ("upper_arm", "upper_arm", 1.0),
    "lowerarm01": ("forearm", "forearm", 1.0),
    "lowerarm02": ("forearm", "hand", 0.5),
    "wrist": ("hand", "hand", 1.0),
    "metacarpal": ("hand", "hand", 1.0),
    "finger": ("hand", "hand", 1.0),
    "upperleg": ("thigh", "thigh", 1.0),
    "lowerleg": ("shin", "shin", 1.0),
    "foot": ("foot", "foot", 1.0),
    "toe": ("foot", "foot", 1.0),
}
# From which bone's head to which other a limb goes, and what lies towards its front.
LIMBS = {
    "upper_arm": ("upperarm01", "lowerarm01", "wrist"),
    "forearm": ("lowerarm01", "wrist", "finger1-1"),
    "hand": ("wrist", "finger3-1", "finger1-1"),
    "thigh": ("upperleg01", "lowerleg01", "toe3-1"),
    "shin": ("lowerleg01", "foot", "toe3-1"),
}
FRONT = np.array([0.0, -1, 0])
SIDES = {"left": ".L", "right": ".R"}

# Regions of the mesh that clothes and hair cover, by the start of the bone's name.
REGIONS = {
    "torso": ("root", "pelvis", "spine", "clavicle", "shoulder01"),
    "upper arms": ("upperarm",),
    "forearms": ("lowerarm",),
    "thighs": ("upperleg",),
    "shins": ("lowerleg",),
    "feet": ("foot", "toe"),
}
FOLDS = 6  # waves of each garment's surface


@dataclasses.dataclass(frozen=True)
class Body:
    """A person: shape and clothes.

    Attributes:
        phenotype: anny's own parameters.
        thickness: [vertices] of clothes and hair, metres along the normal.
        dark: [vertices] whether the surface may swallow a sensor's light.
        curl: How far fingers are bent, radians a phalanx.
        hem: Where a skirt ends, as a part of the leg; 0 for none.
        hair: How far hair falls behind the head, metres.
    """

    phenotype: dict[str, float]
    thickness: Float[np.ndarray, " vertices"]
    dark: Bool[np.ndarray, " vertices"]
    curl: float
    hem: float
    hair: float


class Pose(NamedTuple):
    """A pose in the world.

    Attributes:
        rotations: [segments, 3, 3] from the rest pose, in the order of `SEGMENTS`.
        directions: [segments, 3] of the limbs in that rest pose.
    """

    rotations: Float[np.ndarray, "segments 3 3"]
    directions: Float[np.ndarray, "segments xyz=3"]


class Mesh(NamedTuple):
    """A posed person, the hips above the origin and the lowest point at z = 0.

    Attributes:
        vertices: [vertices, 3] metres.
        faces: [faces, 3] vertices of each triangle.
        dark: [faces] whether a triangle may swallow light.
        joints: Metres, by name, at the bones.
    """

    vertices: Float[np.ndarray, "vertices xyz=3"]
    faces: Int[np.ndarray, "faces corners=3"]
    dark: Bool[np.ndarray, " faces"]
    joints: dict[str, np.ndarray]

    @classmethod
    def of(cls, solid: Solid) -> "Mesh":
        """Returns a thing: it is not dark, and has no joints."""
        return cls(solid.vertices, solid.faces, np.zeros(len(solid.faces), bool), {})

    def moved(self, by: Sequence[float]) -> "Mesh":
        """Returns the mesh in another place."""
        joints = {name: at + by for name, at in self.joints.items()}
        return self._replace(vertices=self.vertices + np.asarray(by), joints=joints)

    def turned(self, rotation: Float[np.ndarray, "3 3"]) -> "Mesh":
        """Returns the mesh turned about the origin, its lowest point at z = 0 again."""
        vertices = self.vertices @ rotation.T
        lowest = np.array([0, 0, vertices[:, 2].min()])
        joints = {name: rotation @ at - lowest for name, at in self.joints.items()}
        return self._replace(vertices=vertices - lowest, joints=joints)


class Figure:
    """anny's model, loaded once a process."""

    def __init__(self) -> None:
        import anny
        import torch
        from anny.shape_distribution import SimpleShapeDistribution

        torch.set_num_threads(1)
        self.torch = torch
        # Not by Warp, which compiles for seconds and is no faster on a processor.
        model = anny.Anny(skinning_method="lbs")
        self.model = model.to(dtype=torch.float32)
        self.shapes = SimpleShapeDistribution(self.model)
        self.bones = list(self.model.bone_labels)
        self.faces = self.model.faces.numpy().astype(np.int32)
        self.template = self.model.template_vertices.numpy()
        weights = self.model.vertex_bone_weights.numpy()
        strongest = weights.argmax(axis=1)[:, None]
        indices = self.model.vertex_bone_indices.numpy()
        owner = np.take_along_axis(indices, strongest, axis=1)[:, 0]
        self.owner = np.array(self.bones)[owner]
        corners = self.faces.T.ravel()
        count = len(self.faces)
        self.face_sums = sparse.csr_matrix(
            (np.ones(3 * count), (corners, np.tile(np.arange(count), 3))),
            shape=(len(self.template), count),
        )

    def sample_body(self, rng: np.random.Generator) -> Body:
        """Draws a person: three quarters adults, one quarter children from four on."""
        age = rng.uniform(18, 75) if rng.random() < 0.75 else rng.uniform(4, 18)
        # anny's own statistics of the world's population, or tall people of any kind.
        tall = float(rng.uniform(0.3, 0.62)) if rng.random() < 0.5 else None
        phenotype = self._phenotype(age, int(rng.integers(2**31)), tall)
        thickness = np.zeros(len(self.template))
        dark = np.zeros(len(self.template), bool)
        loose = rng.choice([0.004, 0.012, 0.025], p=(0.5, 0.35, 0.15))
        wide = rng.choice([0.004, 0.012, 0.025], p=(0.45, 0.4, 0.15))
        short_sleeves, shorts = rng.random() < 0.45, rng.random() < 0.2
        cloth = {
            "torso": loose,
            "upper arms": loose,
            "forearms": 0.0 if short_sleeves else loose,
            "thighs": wide,
            "shins": 0.0 if shorts else wide,
            "feet": rng.uniform(0.005, 0.018),
        }
        dark_top, dark_bottom = rng.random(2) < 0.07
        for region, thick in cloth.items():
            inside = self.region(region)
            at = self.template[inside]
            thickness[inside] = thick * np.clip(1 + 0.5 * _waves(rng, at), 0.2, 2.5)
            lower = region in ("thighs", "shins")
            dark[inside] = thick > 0 and (dark_bottom if lower else dark_top)
        scalp = self.scalp
        thickness[scalp] = rng.uniform(0.002, 0.03) * (
            1 + 0.3 * _waves(rng, self.template[scalp])
        )
        dark[scalp] = True
        woman = phenotype["gender"] > 0.5
        return Body(
            phenotype=phenotype,
            thickness=np.maximum(thickness, 0),
            dark=dark,
            curl=float(rng.uniform(0.05, 0.4) if rng.random() < 0.7 else 1.2),
            hem=float(rng.uniform(0.4, 1.5))
            if rng.random() < (0.2 if woman else 0.02)
            else 0.0,
            hair=float(rng.uniform(0.08, 0.3))
            if rng.random() < (0.5 if woman else 0.05)
            else 0.0,
        )

    def stature(self, body: Body) -> float:
        """Returns the height of a body that stands upright, metres."""
        height = self.at_rest(body)["rest_vertices"][:, 2]
        return float(height.max() - height.min())

    def _phenotype(self, age: float, seed: int, tall: float | None) -> dict[str, float]:
        torch, shapes = self.torch, self.shapes
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            years = torch.tensor(age, dtype=torch.float32)
            shapes.morphological_age_distribution = torch.distributions.Uniform(
                years, years + 0.01
            )
            _, drawn = shapes.sample(1)
        phenotype = {name: float(value) for name, value in drawn.items()}
        if age >= 18 and tall is not None:
            phenotype["height"] = tall
        return phenotype

    def region(self, name: str) -> Bool[np.ndarray, " vertices"]:
        """Returns which vertices a region of `REGIONS` has."""
        inside = np.zeros(len(self.owner), bool)
        for start in REGIONS[name]:
            inside |= np.char.startswith(self.owner, start)
        return inside

    @functools.cached_property
    def scalp(self) -> Bool[np.ndarray, " vertices"]:
        """Which vertices carry hair: top and back of the head."""
        head = self.owner == "head"
        eye = self.model.template_bone_heads[self.bones.index("eye.L")].numpy()
        high = self.template[:, 2] > eye[2] + 0.055
        back = (self.template[:, 1] > eye[1] + 0.085) & (
            self.template[:, 2] > eye[2] - 0.05
        )
        return head & (high | back)

    def pose(self, body: Body, poses: Sequence[Pose]) -> list[Mesh]:
        """Returns the body in each pose."""
        rest = self.at_rest(body)["rest_bone_poses"]
        heads = dict(zip(self.bones, rest[:, :3, 3], strict=True))
        turned = [self._turn(pose, heads, body.curl) for pose in poses]
        meshes = zip(*self.bent(body, np.stack(turned)), strict=True)
        return [self._mesh(body, *mesh) for mesh in meshes]

    def bent(
        self, body: Body, turned: Float[np.ndarray, "poses bones 3 3"]
    ) -> tuple[
        Float[np.ndarray, "poses vertices xyz=3"],
        Float[np.ndarray, "poses bones xyz=3"],
    ]:
        """Returns skin and bones' heads, each bone turned so far from anny's rest."""
        torch, count = self.torch, len(turned)
        phenotype = {
            name: torch.full((count,), value) for name, value in body.phenotype.items()
        }
        rest = self.at_rest(body)["rest_bone_poses"]
        orientation = np.tile(np.eye(4), (count, len(self.bones), 1, 1))
        orientation[..., :3, :3] = turned @ rest[:, :3, :3]
        with torch.no_grad():
            output = self.model(
                pose_parameters=torch.tensor(orientation, dtype=torch.float32),
                phenotype_kwargs=phenotype,
                pose_parameterization="world-orient",
            )
        vertices = output["vertices"].numpy().astype(float)
        return vertices, output["bone_poses"][..., :3, 3].numpy().astype(float)

    def dressed(
        self, body: Body, vertices: Float[np.ndarray, "vertices xyz=3"]
    ) -> Float[np.ndarray, "vertices xyz=3"]:
        """Returns skin with clothes and hair on it."""
        corners = vertices[self.faces]
        normals = self.face_sums @ np.cross(
            corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
        )
        length = np.linalg.norm(normals, axis=1, keepdims=True)
        normals /= np.maximum(length, 1e-12)
        return np.asarray(vertices + body.thickness[:, None] * normals)

    def at_rest(self, body: Body) -> dict[str, np.ndarray]:
        """Returns what anny gives of a body without a pose."""
        identity = self.torch.eye(4).repeat(1, len(self.bones), 1, 1)
        with self.torch.no_grad():
            output = self.model(
                pose_parameters=identity, phenotype_kwargs=body.phenotype
            )
        return {name: value[0].numpy() for name, value in output.items()}

    def _turn(
        self, pose: Pose, heads: dict[str, np.ndarray], curl: float
    ) -> Float[np.ndarray, "bones 3 3"]:
        """Returns how far each bone turns from anny's own rest pose."""
        turned = dict(zip(SEGMENTS, pose.rotations, strict=True))
        directions = dict(zip(SEGMENTS, pose.directions, strict=True))
        for side, ending in SIDES.items():
            for limb, (start, end, front) in LIMBS.items():
                name = f"{side}_{limb}"
                at = heads[start + ending]
                rest = _frame(heads[end + ending] - at, heads[front + ending] - at)
                posed = _frame(directions[name], FRONT)
                turned[name] = turned[name] @ posed @ rest.T
        result = np.empty((len(self.bones), 3, 3))
        for number, bone in enumerate(self.bones):
            stem, dot, letter = bone.partition(".")
            side = {"L": "left_", "R": "right_"}[letter] if dot else ""
            before, after, share = next(
                value for start, value in BONES.items() if stem.startswith(start)
            )
            first, second = (
                turned[name if name in turned else side + name]
                for name in (before, after)
            )
            result[number] = _between(first, second, share)
            if stem.startswith("finger") and not stem.startswith("finger1"):
                phalanx = int(stem[-1])
                bend = _curl_axis(heads, letter) * curl * phalanx
                result[number] @= Rotation.from_rotvec(bend).as_matrix()
        return result

    def _mesh(self, body: Body, vertices: np.ndarray, bones: np.ndarray) -> Mesh:
        vertices = self.dressed(body, vertices)
        faces, dark = [self.faces], [body.dark[self.faces].all(axis=1)]
        heads = dict(zip(self.bones, bones, strict=True))
        if body.hem:
            faces.append(_hull(vertices, np.flatnonzero(self._skirt(body.hem))))
            cloth = bool(body.dark[self.region("thighs")].any())
            dark.append(np.full(len(faces[-1]), cloth))
        if body.hair:
            back = np.flatnonzero(self.scalp & (self.template[:, 1] > -0.02))
            down = heads["neck01"] - vertices[back].mean(axis=0)
            fallen = vertices[back] + body.hair * down / np.linalg.norm(down)
            ends = len(vertices) + np.arange(len(back))
            vertices = np.concatenate([vertices, fallen])
            faces.append(_hull(vertices, np.concatenate([back, ends])))
            dark.append(np.ones(len(faces[-1]), bool))
        hips = (heads["upperleg01.L"] + heads["upperleg01.R"]) / 2
        origin = np.array([hips[0], hips[1], vertices[:, 2].min()])
        joints = {name: at - origin for name, at in _joints(heads).items()}
        return Mesh(
            vertices=vertices - origin,
            faces=np.concatenate(faces).astype(np.int32),
            dark=np.concatenate(dark),
            joints=joints,
        )

    def _skirt(self, hem: float) -> Bool[np.ndarray, " vertices"]:
        """Which vertices a skirt covers: from the hips to `hem` leg lengths down."""
        knee, hip = (
            self.model.template_bone_heads[self.bones.index(bone)].numpy()[2]
            for bone in ("lowerleg01.L", "upperleg01.L")
        )
        legs = self.region("thighs") | self.region("shins") | self.region("torso")
        height = self.template[:, 2]
        return legs & (height < hip) & (height > hip - hem * (hip - knee))


def _waves(
    rng: np.random.Generator, at: Float[np.ndarray, "points xyz=3"]
) -> Float[np.ndarray, " points"]:
    """Returns smooth noise of deviation 1, some 10 cm from crest to crest."""
    frequency = rng.normal(0, 25, (3, FOLDS))
    phase = rng.uniform(0, 2 * np.pi, FOLDS)
    return np.sin(at @ frequency + phase).sum(axis=1) * np.sqrt(2 / FOLDS)


def _frame(along: np.ndarray, front: np.ndarray) -> np.ndarray:
    """Returns axes: along a limb, towards its front, and across."""
    first = along / np.linalg.norm(along)
    second = front - (front @ first) * first
    second /= np.linalg.norm(second)
    return np.stack([first, second, np.cross(first, second)], axis=1)


def _between(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """Returns the rotation a part of the way from one to another."""
    if share == 1 or first is second:
        return second
    way = Rotation.from_matrix(first.T @ second).as_rotvec()
    return first @ Rotation.from_rotvec(share * way).as_matrix()


def _curl_axis(heads: dict[str, np.ndarray], letter: str) -> np.ndarray:
    """Returns the axis about which fingers bend towards the palm."""
    wrist = heads[f"wrist.{letter}"]
    finger = heads[f"finger3-1.{letter}"] - wrist
    thumb = heads[f"finger1-1.{letter}"] - wrist
    palm = np.cross(finger, thumb) * (1 if letter == "L" else -1)
    axis = np.cross(finger, palm)
    return axis / np.linalg.norm(axis)


def _hull(vertices: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Returns triangles, as vertices' numbers, around some of the vertices."""
    return chosen[ConvexHull(vertices[chosen]).simplices]


def _joints(heads: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the joints of BODY15 and BODY19 from the bones' heads.

    Shoulders and hips lie further in than anny's bones: lengths as multiples of each
    other then are those of ITOP's labels (README).
    """
    joints: dict[str, Any] = {}
    for side, ending, other in (("right", ".R", ".L"), ("left", ".L", ".R")):
        shoulder, hip = heads["upperarm01" + ending], heads["upperleg01" + ending]
        knee, foot = heads["lowerleg01" + ending], heads["foot" + ending]
        wrist, knuckle = heads["wrist" + ending], heads["finger3-1" + ending]
        joints |= {
            f"{side}_shoulder": shoulder
            + 0.05 * (heads["upperarm01" + other] - shoulder),
            f"{side}_elbow": heads["lowerarm01" + ending],
            f"{side}_wrist": wrist,
            f"{side}_hand": wrist + 0.45 * (knuckle - wrist),
            f"{side}_hip": hip
            + 0.065 * (heads["spine01"] - hip)
            + 0.02 * (heads["upperleg01" + other] - hip),
            f"{side}_knee": knee + 0.04 * (foot - knee),
            f"{side}_foot": foot,
        }
    shoulders = (joints["right_shoulder"] + joints["left_shoulder"]) / 2
    hips = (joints["right_hip"] + joints["left_hip"]) / 2
    eyes = (heads["eye.L"] + heads["eye.R"]) / 2
    return joints | {
        "head": heads["head"] + 0.3 * (eyes - heads["head"]),
        "neck": shoulders,
        "torso": (shoulders + hips) / 2,
        "upper_spine": 0.75 * shoulders + 0.25 * hips,
        "hip_centre": hips,
    }
