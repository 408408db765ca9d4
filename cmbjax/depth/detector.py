"""People, or hands, in whole depth frames: a small network, and what it is shown.

Any camera in any place, any number of them, a frame in millimetres or without a unit.
Pixels: the centre of the top-left pixel is (0.5, 0.5).
"""

import functools
import itertools
import math
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from cmbjax.depth import crops
from cmbjax.depth.images import checked_depth
from cmbjax.files import checksum, read_json
from cmbjax.sessions import open_session

SIDE = 160  # pixels of the square that the network sees; a frame is thinned out to it
# A crowd is looked at a second time, by a larger picture: from so many sure people on.
CROWD, CLOSER_SIDE = 4, 224
LEAST_FILLED = 0.75  # of its side, where pixels are evenly spaced
STRIDE = 4  # pixels of that square a cell
UNIT = 8.0  # pixels: distances are predicted as logarithms of multiples of it
LEAST_SCORE = 0.33
LEAST_SCORE_RAW = 0.25  # without a unit: of the people found the surest is taken
MOST_MISSING = 0.7  # of a frame's pixels
LEAST_GAPS = 0.3  # of the readings beside which are none: those are no camera's holes
FLECK = 1.5  # times as far as a fleck is all that is around it
STATURE_MM = 1800.0
COVER_MM = 200.0  # in front of a person: what is so far, and no floor before the feet
BAND = 0.05  # of a box: below it that much is looked at
UNSURE_UP = 0.6  # of a trunk's length in the image: shorter, it is looked at twice
STEEP_UP = crops.LEAST_UP  # likewise: shorter, the person is seen from above
RELIEF_MM = 30.0  # of who is seen from above: the head is nearer than the shoulders
RELIEF_REACH_MM = (1200.0, 350.0)  # before and behind a person's depth: the person
SAME = 0.4  # intersection over union of one person's boxes in two looks
NEARLY = 0.8  # as sure as somebody: this part of the score
MAX_OVERLAP = 0.55  # intersection over union of two people's boxes
MAX_INSIDE = 0.85  # part of a box that lies in another of someone equally far away
WEIGHTS = Path(__file__).parents[1] / "weights"
FOLDERS = {"people": "detector", "hands": "hand-detector"}  # of what is found
FARTHEST_MM = 20_000  # cameras write 65535 and the like for no reading
# Channels of the network's output.
CENTRE, SIDES, BODY, DEPTH, UP = 0, slice(1, 5), slice(5, 9), 9, slice(10, 12)
CHANNELS = 12


class Person(NamedTuple):
    """One person, or hand, found in a depth image.

    Attributes:
        box: float32 [x0, y0, x1, y1] of what is seen of the person, pixels.
        body_box: Likewise, with the parts that are hidden by something in the picture.
        depth: Median distance of that, millimetres (raw: the image's unit).
        score: From 0 to 1.
        up: float32 [2] from the hips to the neck in the image, shorter than 1 where
            the person is seen from above; of a hand from the wrist to the fingers.
        is_covered: Whether something nearer is where the legs would be; see
            `reaching_down`.
    """

    box: np.ndarray
    body_box: np.ndarray
    depth: float
    score: float
    up: np.ndarray
    is_covered: bool = False

    @property
    def roll_deg(self) -> int:
        """Quarter turns, clockwise on the screen, that set the person upright."""
        return crops.quarter_turns_deg(self.up)


def nearest(people: list[Person]) -> list[Person]:
    """Returns the first of those nearly as sure as the surest; of nobody, nobody."""
    surest = max((person.score for person in people), default=0.0)
    return [person for person in people if person.score >= NEARLY * surest][:1]


def reaching_down(person: Person, depth: np.ndarray, focal_px: float) -> Person:
    """Returns a person whose legs are behind something with them in the body's box.

    Args:
        person: Is returned unchanged where nothing nearer lies below what is seen, or
            the person is seen from above.
        depth: [height, width] millimetres, 0 = no reading.
        focal_px: Focal length, pixels.
    """
    if np.linalg.norm(person.up) < STEEP_UP:
        return person
    # The feet's side of the box; on the screen those who are to be turned clockwise
    # by 90 degrees have their feet at the right.
    feet = {0: 3, 90: 2, 180: 1, 270: 0}[person.roll_deg]
    axis, sign = feet % 2, 1 if feet > 1 else -1
    box = person.box
    length, wide = (box[2:] - box[:2])[[axis, 1 - axis]]
    band = sorted((box[feet], box[feet] + sign * max(2.0, BAND * length)))
    middle = (box[1 - axis] + box[3 - axis]) / 2 + np.array([-0.25, 0.25]) * wide
    limits = np.array(depth.shape)[::-1]
    (a, b), (c, d) = (
        np.clip(np.rint(edges), 0, limits[which]).astype(int)
        for edges, which in ((band, axis), (middle, 1 - axis))
    )
    below = depth[c:d, a:b] if axis == 0 else depth[a:b, c:d]
    readings = below[(below > 0) & (below < FARTHEST_MM)]
    if 2 * readings.size < below.size or not readings.size:
        return person
    if np.median(readings) > person.depth - COVER_MM:
        return person
    end = box[feet - 2 if sign > 0 else feet + 2]
    end = end + sign * STATURE_MM / max(person.depth, 1.0) * focal_px
    body_box = person.body_box.copy()
    outermost = max if sign > 0 else min
    body_box[feet] = np.clip(outermost(body_box[feet], end), 0, limits[axis])
    return person._replace(body_box=body_box, is_covered=True)


class Sight(NamedTuple):
    """What the network sees of a frame.

    Attributes:
        image: float32 [side, side, 3]: depth relative to the frame's own range,
            whether there is a reading, and depth in units of 4 m (0 without a unit).
        thinning: Pixels of the frame a pixel, at least 1.
        nearest: Depth that is -1 in the first channel.
        span: Depth from there to 1.
    """

    image: np.ndarray
    thinning: float
    nearest: float
    span: float


def look(depth: np.ndarray, *, metric: bool, side: int = SIDE) -> Sight:
    """Returns what the network sees of a frame.

    Args:
        depth: [height, width], 0 = no reading.
        metric: Whether it is in millimetres.
        side: Of the picture, pixels, a multiple of 16. Frames that are not square fill
            a part of it, as in training: shown that part alone, the network finds less.
    """
    longer = max(depth.shape)
    thinning = float(-(-longer // side))  # whole: pixels that are evenly spaced
    if longer < LEAST_FILLED * side * thinning:
        thinning = max(longer / side, 1.0)
    rows, columns = (
        (np.arange(math.ceil(size / thinning - 1e-6)) * thinning).astype(int)
        for size in depth.shape
    )
    beyond = FARTHEST_MM if metric else np.inf
    small = _thinned(depth, rows, columns, int(thinning), beyond).astype(np.float32)
    valid = (small > 0) & (small < beyond)
    image = np.zeros((side, side, 3), np.float32)
    readings = small[valid]
    if not readings.size:
        return Sight(image, thinning, 0.0, 1.0)
    nearest, farthest = np.percentile(readings[:: 1 + readings.size // 4000], [3, 97])
    span = max(float(farthest - nearest), 50.0 if metric else 4.0)
    relative = np.clip(2 * (small - nearest) / span - 1, -2, 2)
    part = image[: len(rows), : len(columns)]
    part[..., 0] = np.where(valid, relative, 0)
    part[..., 1] = valid
    if metric:
        part[..., 2] = np.where(valid, np.minimum(small / 4000, 2), 0)
    return Sight(image, thinning, float(nearest), span)


def _thinned(
    depth: np.ndarray, rows: np.ndarray, columns: np.ndarray, size: int, beyond: float
) -> np.ndarray:
    """Returns the corner of each square of a frame, of all if there are gaps a reading.

    Lines that are missing, or pixels that were spread over a larger grid, would else be
    everywhere or nowhere, as they lie: then two diagonals are asked besides, or the
    whole square where hardly anything is there. Holes as cameras have them stay, as
    the network knows them from training.

    Args:
        depth: [height, width].
        rows: Of the squares' upper left corners.
        columns: Likewise.
        size: Of a square, pixels.
        beyond: No reading is so large.
    """
    corners = depth[np.ix_(rows, columns)]
    y, x = np.nonzero((corners == 0) | (corners >= beyond))
    small, missing = corners.copy(), len(y)
    if missing < LEAST_GAPS * small.size:  # what all others have could not be so much
        return corners
    last_row, last_column = depth.shape[0] - 1, depth.shape[1] - 1
    is_sparse = missing > MOST_MISSING * small.size
    diagonals = range(size if is_sparse else min(size, 2))
    for beside, step in [*itertools.product(diagonals, range(size))][1:]:
        row = np.minimum(rows[y] + step, last_row)
        column = np.minimum(columns[x] + (step + beside) % size, last_column)
        there = depth[row, column]
        is_reading = (there > 0) & (there < beyond)
        small[y[is_reading], x[is_reading]] = there[is_reading]
        y, x = y[~is_reading], x[~is_reading]
    has_gaps = missing - len(y) >= LEAST_GAPS * (small.size - len(y))
    return small if has_gaps else corners


def without_flecks(depth: np.ndarray) -> np.ndarray:
    """Returns a frame without readings thinner than three pixels, far before all else.

    Frames that were scaled down have such at edges, where a surface was mixed with
    pixels without a reading. Holes are no surface: what stands before them alone stays.

    Args:
        depth: uint16 [height, width], 0 = no reading.
    """
    three = np.ones((3, 3), np.uint8)
    behind = cv2.dilate(depth, three)
    behind = cv2.erode(np.where(behind > 0, behind, np.uint16(2**16 - 1)), three)
    return np.where(behind > FLECK * depth.astype(np.float32), 0, depth)


def decode(
    maps: np.ndarray, sight: Sight, shape: tuple[float, ...], least_score: float
) -> list[Person]:
    """Returns the people in what the network gave, the surest first.

    Args:
        maps: [cells, cells, CHANNELS].
        sight: What it saw.
        shape: [height, width] of the frame, pixels.
        least_score: Of a person.
    """
    centre = maps[..., CENTRE]
    peaks = cv2.dilate(centre, np.ones((3, 3), np.uint8))
    rows, columns = np.nonzero((centre >= peaks) & (centre > _logit(least_score)))
    people: list[Person] = []
    for cell in np.argsort(-centre[rows, columns]):
        row, column = rows[cell], columns[cell]
        values = maps[row, column]
        at = STRIDE * (np.array([column, row]) + 0.5)
        box, body_box = (
            _box(at, values[sides], sight.thinning, shape) for sides in (SIDES, BODY)
        )
        depth = sight.nearest + (values[DEPTH] + 1) / 2 * sight.span
        score = float(1 / (1 + np.exp(-values[CENTRE])))
        up = values[UP].astype(np.float32)
        person = Person(box, body_box, float(depth), score, up)
        if (box[2:] - box[:2]).min() > 1 and not _is_known(person, people):
            people.append(person)
    return people


def mirrored(maps: np.ndarray) -> np.ndarray:
    """Returns what the network gave for a mirrored image, told of the image itself.

    Args:
        maps: [cells, cells, CHANNELS].
    """
    told = maps[:, ::-1].copy()
    for sides in (SIDES, BODY):
        left, right = sides.start, sides.start + 2
        told[..., [left, right]] = told[..., [right, left]]
    told[..., UP.start] *= -1
    return told


def _box(
    at: np.ndarray, sides: np.ndarray, thinning: float, shape: tuple[float, ...]
) -> np.ndarray:
    """Returns a box in a frame, given logarithms of how far its sides are."""
    reach = UNIT * np.exp(np.clip(sides, -4, 4))
    box = thinning * np.concatenate([at - reach[:2], at + reach[2:]])
    return np.clip(box, 0, [shape[1], shape[0]] * 2).astype(np.float32)


class Seen(NamedTuple):
    """A person in a frame that was turned.

    Attributes:
        person: In the frame as it is.
        is_vertical: In the frame as it was turned, upright or upside down.
    """

    person: Person
    is_vertical: bool


def _surer(person: Person, others: list[Seen]) -> Person:
    """Returns a person as another look at the frame has it, if that knows better."""
    same = [seen for seen in others if overlap(seen.person.box, person.box) >= SAME]
    best = max(same, key=lambda seen: seen.person.score, default=None)
    if best is None or not best.is_vertical:
        return person
    if np.linalg.norm(best.person.up) < UNSURE_UP:
        return person
    return best.person._replace(score=max(best.person.score, person.score))


def _is_flat(person: Person, depth: np.ndarray) -> bool:
    """Tells whether what would be somebody seen from above has no head: a board, say.

    Args:
        person: Found.
        depth: [height, width] millimetres, 0 = no reading.
    """
    if np.linalg.norm(person.up) >= STEEP_UP:
        return False
    x0, y0, x1, y1 = person.box.astype(int)
    inside = depth[y0:y1, x0:x1].astype(np.float32)
    before, behind = RELIEF_REACH_MM
    off = inside[inside > 0] - person.depth
    near = off[(off > -before) & (off < behind)]
    return bool(near.size and np.median(near) - np.percentile(near, 2) < RELIEF_MM)


def _is_known(person: Person, people: list[Person]) -> bool:
    """Tells whether a person is one of those already found, or a part of one."""
    for earlier in people:
        if overlap(person.box, earlier.box) > MAX_OVERLAP:
            return True
        alike = abs(person.depth - earlier.depth) < 0.12 * earlier.depth
        common = common_area(person.box, earlier.box)
        if alike and common > MAX_INSIDE * area(person.box):
            return True
    return False


def _each_once(people: list[Person]) -> list[Person]:
    """Returns people the surest first, without those who are parts of surer ones."""
    known: list[Person] = []
    for person in sorted(people, key=lambda person: -person.score):
        if not _is_known(person, known):
            known.append(person)
    return known


def area(box: np.ndarray) -> float:
    """Returns the area of a box [x0, y0, x1, y1]."""
    return float(np.prod(box[2:] - box[:2]))


def common_area(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the area that two boxes share."""
    size = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    return float(np.prod(np.maximum(size, 0)))


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the intersection over the union of two boxes."""
    common = common_area(first, second)
    return common / max(area(first) + area(second) - common, 1e-9)


def _logit(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))


def card_of(what: str) -> Path:
    """Returns the card of the package's own detector of people or of hands."""
    return WEIGHTS / FOLDERS[what] / "detector.json"


@functools.cache
def shipped(what: str = "people") -> "Detector":
    """Returns the package's own detector of people or of hands, loaded once."""
    return Detector(card_of(what).with_suffix(".onnx"), what)


class Detector:
    """Finds people, or hands; threads may share one."""

    def __init__(self, weights: Path, what: str = "people") -> None:
        """Loads a network and checks it against its card, a .json beside it.

        Args:
            weights: The .onnx file.
            what: A name in `FOLDERS`: what it was trained to find.

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: A file is damaged, or ONNX Runtime is not installed.
        """
        card = weights.with_suffix(".json")
        for path in (weights, card):
            if not path.is_file():
                raise FileNotFoundError(f"{path}: no such file")
        expected = read_json(card, dict[str, Any]).get("sha256")
        if checksum(weights) != expected:
            raise ValueError(f"{weights} is damaged: not what {card.name} says")
        self._session = open_session(weights)
        self._input = self._session.get_inputs()[0].name
        self.what = what

    def _run(self, image: np.ndarray) -> np.ndarray:
        """Returns the maps [cells, cells, CHANNELS] of a `Sight.image`."""
        inputs = {self._input: np.ascontiguousarray(image.transpose(2, 0, 1))[None]}
        (maps,) = self._session.run(None, inputs)
        return np.asarray(maps[0].transpose(1, 2, 0))

    def _turned(
        self, sight: Sight, shape: tuple[int, ...], roll_deg: int, least_score: float
    ) -> list["Seen"]:
        """Returns the people in a frame turned clockwise, at their places in it."""
        quarters = -roll_deg // 90 % 4
        side = len(sight.image) * sight.thinning
        maps = self._run(np.rot90(sight.image, quarters))
        people = decode(maps, sight, (side, side), least_score)
        limits = np.array([shape[1], shape[0]] * 2)
        seen = []
        for person in people:
            boxes, up = [person.box, person.body_box], person.up
            for _ in range(quarters):  # each was one anticlockwise
                boxes = [
                    np.array([side - b[3], b[0], side - b[1], b[2]]) for b in boxes
                ]
                up = np.array([-up[1], up[0]], np.float32)
            box, body_box = (np.clip(b, 0, limits).astype(np.float32) for b in boxes)
            back = person._replace(box=box, body_box=body_box, up=up)
            seen.append(Seen(back, is_vertical=person.roll_deg % 180 == 0))
        return seen

    def __call__(
        self,
        depth: np.ndarray,
        *,
        metric: bool = True,
        focal_px: float | None = None,
        least_score: float | None = None,
    ) -> list[Person]:
        """Returns the people in a frame, nearest first (raw: surest first).

        Without a unit the network is less sure: it sees the mirrored frame as well, and
        no flecks. Of a crowd a second, larger picture shows who is small in the first.

        Args:
            depth: uint16 [height, width], millimetres, 0 = no reading. Not metric:
                uint8 or uint16 of any scale.
            metric: Whether `depth` is in millimetres.
            focal_px: Focal length, where it is known: body boxes then reach as far
                behind what covers somebody's legs as these are long.
            least_score: Of a person; by default `LEAST_SCORE`, or `LEAST_SCORE_RAW`.

        Raises:
            ValueError: `depth` has another shape or type.
        """
        if least_score is None:
            least_score = LEAST_SCORE if metric else LEAST_SCORE_RAW
        depth = checked_depth(depth, "depth", metric=metric)
        if not metric:
            depth = without_flecks(depth)
        people = self._seen(depth, SIDE, least_score, metric=metric)
        if metric and self.what == "people":
            if sum(person.score >= LEAST_SCORE for person in people) >= CROWD:
                people += self._seen(depth, CLOSER_SIDE, least_score, metric=metric)
                people = _each_once(people)
            people = [p for p in people if not _is_flat(p, depth)]
            if focal_px is not None:
                people = [reaching_down(p, depth, focal_px) for p in people]
        return _in_order(people, metric=metric)

    def _seen(
        self, depth: np.ndarray, side: int, least_score: float, *, metric: bool
    ) -> list[Person]:
        """Returns whom the network sees in a picture of a frame, each once."""
        sight = look(depth, metric=metric, side=side)
        maps = self._run(sight.image)
        if not metric:
            maps = (maps + mirrored(self._run(sight.image[:, ::-1]))) / 2
        people = decode(maps, sight, depth.shape, least_score)
        if self.what != "people":  # hands point anywhere, and are known as well there
            return people
        turns = {person.roll_deg for person in people} - {0}
        if any(np.linalg.norm(person.up) < UNSURE_UP for person in people):
            turns |= set() if turns & {90, 270} else {270}
        for roll_deg in sorted(turns):
            # Those who are upright are known best: others are seen once more, set
            # upright by quarter turns, and so are those whose direction is not sure.
            others = self._turned(sight, depth.shape, roll_deg, least_score)
            # Two who were unsure may be one who is sure.
            people = _each_once([_surer(person, others) for person in people])
        return people


def _in_order(people: list[Person], *, metric: bool) -> list[Person]:
    """Returns people nearest first; without a unit, surest first."""
    if metric:
        return sorted(people, key=lambda person: person.depth)
    return sorted(people, key=lambda person: -person.score)
