"""A frame -> what the network reads of it: cropped, augmented, normalised."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from cmbjax.data.augment import Augmentation, random_transform, sensor_noise
from cmbjax.data.examples import Example, decode_depth
from cmbjax.depth import crops, finder
from cmbjax.skeletons import Skeleton

View = dict[str, np.ndarray]  # arrays of one frame by name; stacked, those of a batch

LEAST_EXTENT = 0.1  # of the frame's longer side: no labelled box is smaller


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preparation:
    """How a frame becomes the network's input.

    Attributes:
        side: Side of the input, pixels.
        crop: "full" (the frame, letterboxed), "label_box" (around the labels), or
            "person": around the labels in training, around the person found in the
            depth image in evaluation; the whole frame where nobody is found.
        depth_range: See `crops.normalise`; millimetres or raw.
        num_frames: Frames of a recording that are seen at once, in the middle the one
            whose joints are asked for; where it begins or ends, its first or last
            again.
    """

    side: int
    crop: crops.CropMode
    depth_range: float
    num_frames: int = 1


def frame_box(depth: np.ndarray) -> np.ndarray:
    """Returns the box of a whole frame, shrunk so that its crop has no margin."""
    height, width = depth.shape
    centre = np.array([width, height, width, height]) / 2
    corners = np.array([0, 0, width, height])
    return (centre + (corners - centre) / crops.MARGIN).astype(np.float32)


def label_box(example: Example, depth: np.ndarray) -> np.ndarray:
    """Returns the box of the labelled body, as far as it is in the frame."""
    box = crops.body_box(example["joints_px"], example["visible"])
    height, width = depth.shape
    clipped = np.clip(box, 0, np.array([width, height, width, height], np.float32))
    if (clipped[2:] - clipped[:2]).min() > 1:
        box = clipped
    # One joint alone, or all in one place, say little of how large the body is.
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    half = np.maximum(half, max(height, width) * LEAST_EXTENT / 2)
    return np.concatenate([centre - half, centre + half]).astype(np.float32)


def training_view(
    example: Example,
    rng: np.random.Generator,
    *,
    preparation: Preparation,
    augmentation: Augmentation,
    skeleton: Skeleton,
    clip: Sequence[Example] = (),
) -> View:
    """Returns a random view of a frame and its labels, in crop pixels.

    Args:
        example: The frame.
        rng: Draws the view.
        preparation: How it becomes an input.
        augmentation: How it may be changed.
        skeleton: Of its joints.
        clip: The frames around it and itself in the middle, to be seen in the same way.

    Returns:
        depth [side, side, frames] in [-1, 1], joints_px [joints, 2], joints_z [joints]
        in normalised depth (NaN where unlabelled), visible [joints]; of a clip also
        frames_joints_px [frames, joints, 2], frames_joints_z, frames_visible.
    """
    depth = decode_depth(example)
    box = person = frame_box(depth)
    if example["visible"].any():
        person = label_box(example, depth)
        box = box if preparation.crop == "full" else person
    transform, flip = random_transform(rng, box, preparation.side, augmentation)
    crop = crops.cut(depth, transform, preparation.side)
    depth_range = preparation.depth_range
    crop = sensor_noise(rng, crop, depth_range, augmentation)
    if box is person:
        reference = crops.person_depth(crop, depth_range / 2)
    else:
        reference = crops.reference_depth(depth, person, depth_range)
    reference += depth_range * rng.normal(0, augmentation.reference)
    order = list(skeleton.mirror) if flip else list(range(skeleton.num_joints))

    def labels(example: Example) -> View:
        joints_px = crops.transform_points(transform, example["joints_px"])[order]
        joints_z = (1000 * example["joints_m"][order, 2] - reference) / depth_range
        return {
            "joints_px": joints_px.astype(np.float32),
            "joints_z": joints_z.astype(np.float32),
            "visible": example["visible"][order],
        }

    view = {
        "depth": crops.normalise(crop, reference, depth_range),
        **labels(example),
    }
    if clip:
        cuts = [crops.cut(decode_depth(x), transform, preparation.side) for x in clip]
        noisy = [sensor_noise(rng, x, depth_range, augmentation) for x in cuts]
        normalised = [crops.normalise(x, reference, depth_range) for x in noisy]
        view["depth"] = np.concatenate(normalised, axis=-1)
        frames_labels = [labels(x) for x in clip]
        for name in frames_labels[0]:
            view[f"frames_{name}"] = np.stack([x[name] for x in frames_labels])
    return view


def evaluation_view(
    example: Example,
    depth: np.ndarray,
    *,
    preparation: Preparation,
    metric: bool,
    clip: Sequence[np.ndarray] = (),
) -> View:
    """Returns a frame as `crop` says, with what leads back from the crop to the frame.

    Args:
        example: The frame.
        depth: [height, width] uint16, its depth.
        preparation: How it becomes an input.
        metric: See `DepthFrames`.
        clip: Depth of the frames around it, and its own in the middle.

    Returns:
        depth [side, side, frames], frame_from_crop [2, 3], reference [] (the person's
        depth, millimetres or raw), is_found [] (whether there was a person to look at).
    """
    person = _person_box(example, depth, preparation.crop, metric)
    whole = frame_box(depth)
    box = whole if person is None or preparation.crop == "full" else person
    side, depth_range = preparation.side, preparation.depth_range
    around = person if box is whole else None
    crop = crops.look(depth, box, side=side, depth_range=depth_range, around=around)
    view = {
        "depth": crop.depth,
        "frame_from_crop": crop.frame_from_crop,
        "reference": np.array(crop.reference, np.float32),
        "is_found": np.array(person is not None),
    }
    if clip:
        transform = crops.invert(crop.frame_from_crop)
        cuts = [crops.cut(frame, transform, side) for frame in clip]
        normalised = [crops.normalise(x, crop.reference, depth_range) for x in cuts]
        view["depth"] = np.concatenate(normalised, axis=-1)
    return view


def _person_box(
    example: Example, depth: np.ndarray, crop: crops.CropMode, metric: bool
) -> np.ndarray | None:
    """Returns the box of the person to look at; None where there is nobody."""
    if crop == "label_box":
        return label_box(example, depth) if example["visible"].any() else None
    people = finder.find_people(depth, example["camera"], metric=metric)
    return people[0].box if people else None
