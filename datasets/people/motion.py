"""Motion capture in Acclaim's ASF/AMC form -> rotations of the body's segments.

Acclaim's files have y up and z forwards; everything here is turned into the person's
frame: x to the left, y to the back, z up.
"""

import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from datasets.builder import MIB, read_within

MOST_BYTES = 2**26  # of a motion file, unpacked: nearly 90,000 frames
MOST = 1e6  # degrees or inches
DAMAGED = (tarfile.TarError, zlib.error, lzma.LZMAError)  # what archives raise
FRAMES_APART = 12  # of 120 a second: neighbours are nearly equal
ACCLAIM_TO_PERSON = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])

# Each segment of the body and the bone of CMU's skeletons that turns with it.
BONES = {
    "pelvis": "root",
    "waist": "lowerback",
    "chest": "thorax",
    "head": "head",
    "right_upper_arm": "rhumerus",
    "left_upper_arm": "lhumerus",
    "right_forearm": "rradius",
    "left_forearm": "lradius",
    "right_hand": "rwrist",
    "left_hand": "lwrist",
    "right_thigh": "rfemur",
    "left_thigh": "lfemur",
    "right_shin": "rtibia",
    "left_shin": "ltibia",
    "right_foot": "rfoot",
    "left_foot": "lfoot",
}
SEGMENTS = tuple(BONES)


class Bone(NamedTuple):
    """A bone of a skeleton file.

    Attributes:
        parent: Its name.
        direction: In the rest pose.
        axes: The frame that its degrees of freedom turn about.
        freedoms: Some of rx, ry, rz, in the order of the motion's values.
    """

    parent: str
    direction: np.ndarray
    axes: Rotation
    freedoms: tuple[str, ...]


class Clip(NamedTuple):
    """A recorded motion.

    Attributes:
        name: Of the file, without its ending.
        rotations: [frames, segments, 3, 3] from the rest pose, in the person's frame.
        directions: [segments, 3] of the limbs in the rest pose.
    """

    name: str
    rotations: Float[np.ndarray, "frames segments 3 3"]
    directions: Float[np.ndarray, "segments xyz=3"]


def read_clips(source: Path) -> list[Clip]:
    """Reads all motions in a folder, also in .tar archives in it, sorted by name.

    Raises:
        ValueError: There is none, a motion has no skeleton, or a file is malformed.
    """
    skeletons: dict[Path, dict[str, Bone]] = {}
    motions: dict[str, tuple[str, dict[str, np.ndarray]]] = {}
    for where, name, text in _texts(source):
        if name.endswith(".asf"):
            skeletons[Path(name).parent] = _named(where, _parse_skeleton, text)
        else:
            motions[name] = where, _named(where, _parse_motion, text)
    if not motions:
        raise ValueError(f"{source}: no .amc file, and no .tar archive that holds one")
    names = sorted(motions)
    if missing := [name for name in names if Path(name).parent not in skeletons]:
        raise ValueError(f"{source}: no .asf file beside {missing[0]}")
    return [
        _named(where, _clip, values, skeletons[Path(name).parent])
        for name in names
        for where, values in [motions[name]]
    ]


def _named(where: str, parse: Callable[..., Any], *arguments: Any) -> Any:
    """Returns what `parse` does; whatever a file makes it raise names the file."""
    try:
        return parse(where, *arguments)
    except (ArithmeticError, LookupError, NameError, TypeError, ValueError) as error:
        if where in str(error):
            raise
        raise ValueError(
            f"{where}: not a whole Acclaim file ({type(error).__name__}: {error})"
        ) from None


def _texts(source: Path) -> Iterator[tuple[str, str, str]]:
    """Yields where each file is, for errors, its name in the folder, and its text."""
    for path in sorted(source.rglob("*")):
        if path.suffix in (".asf", ".amc"):
            text = read_within(path, MOST_BYTES).decode(errors="replace")
            yield str(path), str(path.relative_to(source)), text
        elif ".tar" in path.suffixes:
            yield from _texts_in(path)


def _texts_in(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yields the same of an archive's files, but not of links."""
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if not (member.isreg() and member.name.endswith((".asf", ".amc"))):
                    continue
                where = f"{path}: {member.name}"
                if member.size > MOST_BYTES:
                    raise ValueError(
                        f"{where}: expected at most {MOST_BYTES} bytes, "
                        f"got {member.size}"
                    )
                file = archive.extractfile(member)
                assert file is not None
                yield where, member.name, file.read().decode(errors="replace")
            _check_end(archive)
    except (*DAMAGED, EOFError, OSError) as error:
        raise ValueError(f"{path}: not a whole archive: {error}") from error


def _check_end(archive: tarfile.TarFile) -> None:
    """Refuses an archive that goes on: tarfile takes a damaged header for the end."""
    file = archive.fileobj
    assert file is not None
    file.seek(archive.offset)
    if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError("a header is damaged")
    while file.read(MIB):  # to the checksum that compression writes last
        pass


def _parse_skeleton(where: str, text: str) -> dict[str, Bone]:
    """Returns the bones of an .asf file, parents first."""
    sections: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith(":"):
            key = line[1:].split()[0]
            sections[key] = []
        elif sections:
            sections[key].append(line)
    if not {"bonedata", "hierarchy"} <= set(sections):
        raise ValueError(
            f"{where}: expected :bonedata and :hierarchy, got no such parts"
        )
    fields: dict[str, dict[str, list[str]]] = {}
    for line in sections["bonedata"]:
        words = line.split()
        if words[:1] == ["begin"]:
            current: dict[str, list[str]] = {}
        elif words[:1] == ["end"]:
            fields[current["name"][0]] = current
        elif words and not words[0].startswith("("):
            current[words[0]] = words[1:]
    bones = {"root": Bone("", np.zeros(3), Rotation.identity(), ("rx", "ry", "rz"))}
    for line in sections["hierarchy"]:
        parent, *children = line.split() or ["begin"]
        if parent in ("begin", "end"):
            continue
        for child in children:
            field = fields[child]
            direction = np.array(field["direction"], float)
            axis = np.array(field["axis"][:3], float)
            _check_numbers(where, child, np.concatenate([direction, axis]))
            # "XYZ" turns about the fixed x first.
            axes = Rotation.from_euler("xyz", np.radians(axis))
            freedoms = tuple(field.get("dof", ()))
            bones[child] = Bone(parent, direction, axes, freedoms)
    if missing := set(BONES.values()) - set(bones):
        raise ValueError(f"{where}: no bone {', '.join(sorted(missing))}")
    return bones


def _clip(where: str, values: dict[str, np.ndarray], bones: dict[str, Bone]) -> Clip:
    turned: dict[str, Rotation] = {}
    for bone_name, bone in bones.items():
        angles = np.zeros((len(values["root"]), 3))
        moved = values.get(bone_name)
        if moved is not None:
            moved = moved[:, 3:] if bone_name == "root" else moved
            if moved.shape[1] != len(bone.freedoms):
                raise ValueError(
                    f"{where}: {bone_name} has {moved.shape[1]} values, expected "
                    f"{len(bone.freedoms)}"
                )
            angles[:, ["rxyz".index(f[1]) - 1 for f in bone.freedoms]] = moved
        local = Rotation.from_euler("xyz", np.radians(angles))
        local = bone.axes * local * bone.axes.inv()
        turned[bone_name] = turned[bone.parent] * local if bone.parent else local
    into = ACCLAIM_TO_PERSON
    rotations = [into @ turned[bone].as_matrix() @ into.T for bone in BONES.values()]
    directions = np.stack([into @ bones[bone].direction for bone in BONES.values()])
    return Clip(Path(where).stem, np.stack(rotations, axis=1), directions)


def _parse_motion(where: str, text: str) -> dict[str, np.ndarray]:
    """Returns [frames, values] of each bone, every `FRAMES_APART`th frame."""
    frames: list[dict[str, list[float]]] = []
    number = 0
    for line in text.splitlines():
        if line.startswith(("#", ":")) or not line.strip():
            continue
        words = line.split()
        if len(words) == 1:
            number += 1
            if number % FRAMES_APART == 1:
                frames.append({})
        elif number % FRAMES_APART == 1:
            frames[-1][words[0]] = [float(word) for word in words[1:]]
    rows = [{bone: len(values) for bone, values in frame.items()} for frame in frames]
    if not frames or any(row != rows[0] for row in rows):
        raise ValueError(
            f"{where}: expected the same bones in each frame, at least one"
        )
    values = {bone: np.array([frame[bone] for frame in frames]) for bone in frames[0]}
    for bone, numbers in values.items():
        _check_numbers(where, bone, numbers)
    return values


def _check_numbers(where: str, bone: str, numbers: np.ndarray) -> None:
    bad = numbers[~(np.abs(numbers) <= MOST)]
    if bad.size:
        raise ValueError(
            f"{where}: {bone}: expected numbers from {-MOST:g} to {MOST:g}, got "
            f"{bad[0]:g}"
        )
