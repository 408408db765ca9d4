"""Depth images as a camera or a file gives them."""

import math
import struct
from pathlib import Path

import cv2
import numpy as np

ENDINGS = (".png", ".npy")
MAX_PIXELS = 2**24  # of a file: a few bytes can claim to be more than the memory holds
PNG = b"\x89PNG\r\n\x1a\n"
MOST_BYTES, MORE_BYTES = 16, 2**20  # of a PNG: a pixel, and what is beside the image
MOST_HEADER = 10_000  # bytes of a .npy, which says how long its header is
NEAREST_M, FARTHEST_M = 0.05, 50.0  # a median reading outside is in other units
SAMPLE = 5_000  # readings, at least, of which that median is
BEYOND_MM = 65_500  # is no reading: 65535, and what 16 bits cannot tell
# A far value for no reading, or two beside one another, such as 9999 and 10000: it is
# found often, and hardly anything is a little nearer or farther, as a wall's noise is.
LEAST_FAR_MM, LEAST_FAR_SHARE = 6000, 0.001
SAME_FAR, NEAR_FAR, MOST_NEAR = 1.001, 1.25, 0.1
LEAST_OUTLIERS = 0.02  # of a frame: people far away in small ones have up to half that


def files_of(folder: Path) -> list[Path]:
    """Returns the frames in a folder, or the one that a path names, sorted by name.

    Raises:
        FileNotFoundError: There is nothing.
        ValueError: There is no frame among what is there.
    """
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: no such file or folder")
    if not folder.is_dir():
        return [folder]
    frames = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in ENDINGS and not path.is_dir()
    )
    if not frames:
        raise ValueError(f"{folder}: no frames in it; expected .png or .npy files")
    return frames


def read_frame(path: Path, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Reads a frame: a 16-bit PNG, or an array in a .npy file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is of another kind, damaged, or larger than `max_pixels`.
    """
    if path.suffix.lower() == ".png":
        return read_png(path, max_pixels=max_pixels)
    if not path.is_file():
        what = "a folder; stream() takes those" if path.is_dir() else "no such frame"
        raise FileNotFoundError(f"{path}: {what}")
    if path.suffix.lower() != ".npy":
        raise ValueError(f"{path}: expected a .png or .npy file, got {path.suffix!r}")
    try:
        _check_header(path)
        frame = np.lib.format.open_memmap(path, mode="r")
    # What a changed header raises is not documented: among others SyntaxError,
    # TokenError, TypeError, OverflowError.
    except Exception as error:
        raise ValueError(f"{path}: not a whole .npy array ({error})") from None
    _check_size(path, frame.shape, max_pixels)
    if frame.dtype.kind not in "uif":  # others may have megabytes a pixel
        raise ValueError(
            f"{path}: expected integers or floats in metres, got {frame.dtype!s:.40}"
        )
    return np.array(frame)


def _check_header(path: Path) -> None:
    """Refuses a .npy file whose header NumPy would read gigabytes of."""
    with path.open("rb") as file:
        start = file.read(12)
    # After six letters the version: of the first the length has two bytes, then four.
    length = int.from_bytes(start[8:12], "little") if start[6:7] > b"\1" else 0
    if length > MOST_HEADER:
        raise ValueError(f"a header of {length} bytes")


def _check_size(path: Path, shape: tuple[int, ...], max_pixels: int) -> None:
    if math.prod(shape) > max_pixels:
        raise ValueError(
            f"{path}: {' x '.join(map(str, shape))} is more than {max_pixels} pixels "
            "(--max_pixels)"
        )


def to_millimetres(
    frame: np.ndarray, *, depth_scale: float = 0.001, name: str = "the frame"
) -> np.ndarray:
    """Returns a frame in millimetres, 0 = no reading; beyond 65.5 m there is none.

    Args:
        frame: [height, width] or [height, width, 1]: integers, of which 0, 65535 and
            the largest of their type are no reading, or floats in metres, where 0, NaN
            and infinity are none (as in ROS). Nor is a negative value, where all
            negative ones are the same or there are few, or what is masked.
        depth_scale: Metres per unit of integers.
        name: For errors.

    Raises:
        ValueError: It has another shape or type, holds no reading at all or more
            negative ones than others, or its readings are no distances of a room in
            that unit.
    """
    if isinstance(frame, np.ma.MaskedArray):
        frame = frame.filled(0)
    frame = np.asarray(frame)
    if frame.ndim == 3 and frame.shape[-1] == 1:
        frame = frame[..., 0]
    if frame.ndim != 2 or not frame.size or frame.dtype.kind not in "uif":
        raise ValueError(
            f"{name}: expected [height, width] integers or floats in metres, got "
            f"{list(frame.shape)} {frame.dtype}"
        )
    is_float = frame.dtype.kind == "f"
    if frame.dtype.itemsize < 2:
        raise ValueError(
            f"{name}: expected at least 16 bits a reading, got {frame.dtype}: 8 bits "
            "have no known unit"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        millimetres = frame.astype(np.float32)
        millimetres *= np.float32(1000 if is_float else 1000 * depth_scale)
    if not is_float:  # some cameras have the largest number where there is no reading
        millimetres[frame == np.iinfo(frame.dtype).max] = 0
        if frame.dtype.itemsize > 2:
            millimetres[frame == np.iinfo(np.uint16).max] = 0
    millimetres[~np.isfinite(millimetres)] = 0
    is_negative = millimetres < 0
    if 2 * np.count_nonzero(is_negative) > np.count_nonzero(millimetres):
        lowest = float(millimetres.min())
        if (millimetres[is_negative] != lowest).any():
            raise ValueError(f"{name}: negative depth, from {lowest / 1000:g} m")
    millimetres[is_negative] = 0
    valid = millimetres[(millimetres > 0) & (millimetres < BEYOND_MM)]
    if not valid.size:
        valid = millimetres[millimetres > 0]
    if not valid.size:
        what = "0"
        if is_float and not np.isfinite(frame).all():
            what = "0, NaN or infinite"
        elif is_negative.any():
            what = f"0 or {frame.min():g}"
        elif frame.any():
            what = f"0 or {np.iinfo(frame.dtype).max}"
        raise ValueError(f"{name}: no reading in it, every pixel is {what}")
    some = valid[:: max(valid.size // SAMPLE, 1)]
    median = float(np.median(some)) / 1000
    if not NEAREST_M <= median <= FARTHEST_M:
        unit = "floats are metres" if is_float else f"a unit is {depth_scale:g} m"
        raise ValueError(
            f"{name}: the median depth is {median:g} m, as {unit}; expected "
            f"{NEAREST_M:g} to {FARTHEST_M:g} m: another unit?"
        )
    np.rint(millimetres, out=millimetres)
    millimetres[millimetres >= BEYOND_MM] = 0
    return millimetres.astype(np.uint16)


def without_far_value(depth: np.ndarray) -> np.ndarray:
    """Returns depth with 0 for a far value that stands for no reading, if there is one.

    Of a wall so far away, at one distance in all its pixels, nothing is lost that
    matters; a frame that is nothing else stays.

    Args:
        depth: uint16 [height, width] millimetres, 0 = no reading.
    """
    far = depth[depth >= LEAST_FAR_MM]
    if far.size < LEAST_FAR_SHARE * depth.size:
        return depth
    value = int(np.bincount(far).argmax())

    def within(factor: float) -> np.ndarray:
        return (depth * factor >= value) & (depth <= value * factor)

    is_value = within(SAME_FAR)
    number = np.count_nonzero(is_value)
    is_often = LEAST_FAR_SHARE * depth.size <= number < np.count_nonzero(depth)
    beside = np.count_nonzero(within(NEAR_FAR)) - number
    return depth * ~is_value if is_often and beside <= MOST_NEAR * number else depth


def without_outliers(depth: np.ndarray) -> np.ndarray:
    """Returns depth with 0 for single pixels far from the median of those around them.

    What is one pixel wide counts as such; where most is missing, nothing is left out.
    A frame with hardly any stays as it is.

    Args:
        depth: uint16 [height, width], 0 = no reading.
    """
    median = np.asarray(cv2.medianBlur(depth, 3), np.uint16)
    # Half as far again as the nearer of the two; OpenCV's differences end at 0.
    is_near = (cv2.subtract(median, depth) > depth >> 1) & (depth > 0)
    is_far = (cv2.subtract(depth, median) > median >> 1) & (median > 0)
    is_outlier = is_near | is_far
    if np.count_nonzero(is_outlier) < LEAST_OUTLIERS * depth.size:
        return depth
    return depth * ~is_outlier  # several times faster than np.where


def checked_depth(depth: np.ndarray, name: str, *, metric: bool) -> np.ndarray:
    """Returns an image that people can be looked for in, its bytes as OpenCV has them.

    Args:
        depth: [height, width] uint16; without a unit also uint8.
        name: For errors.
        metric: Whether it is in millimetres.

    Raises:
        ValueError: It has another shape or type.
    """
    types = ("uint16",) if metric else ("uint8", "uint16")
    depth = np.asarray(depth)
    if depth.ndim != 2 or not depth.size or depth.dtype.name not in types:
        raise ValueError(
            f"{name} must be [height, width] {' or '.join(types)}, "
            f"got {depth.dtype.name} {depth.shape}"
        )
    return depth.astype(depth.dtype.newbyteorder("="), copy=False)


def read_png(
    path: Path,
    dtype: type[np.generic] = np.uint16,
    *,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Reads a depth image.

    Args:
        path: A PNG file.
        dtype: np.uint16 or np.uint8: what the file must hold.
        max_pixels: A larger image is refused before it is unpacked.

    Returns:
        [height, width] uint16; of an image with several equal channels the first.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, too large, of another dtype, or has unequal
            channels.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such depth image")
    number_bytes = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(24)
    image = None
    if start.startswith(PNG) and len(start) == 24:
        # After the signature: the first block's length and name, width and height.
        height, width = struct.unpack(">II", start[16:])[::-1]
        _check_size(path, (height, width), max_pixels)
        if number_bytes > MOST_BYTES * height * width + MORE_BYTES:
            raise ValueError(
                f"{path}: {number_bytes} bytes are more than any PNG image of "
                f"{height} x {width} pixels has"
            )
        image = unpacked_png(path.read_bytes())
    if image is None:
        raise ValueError(f"{path}: not a whole PNG image ({number_bytes} bytes)")
    if image.dtype != dtype:
        raise ValueError(
            f"{path}: expected {8 * np.dtype(dtype).itemsize} bits a channel, "
            f"got {8 * image.dtype.itemsize}"
        )
    if image.ndim == 2:
        return image.astype(np.uint16, copy=False)
    channels = image.reshape(*image.shape[:2], -1)[..., :3]  # a fourth is opacity
    if (channels != channels[..., :1]).any():
        raise ValueError(f"{path}: a colour image; expected equal channels of depth")
    return channels[..., 0].astype(np.uint16)


def unpacked_png(png: bytes) -> np.ndarray | None:
    """Returns an image [height, width, ...]; None of one that is damaged.

    OpenCV takes as much memory as a block says that it is long before it reads it: of a
    damaged one up to 4 GiB. So it gets blocks that are whole, and those of the image.
    """
    blocks = _image_blocks(png)
    if blocks is None:
        return None
    try:
        return cv2.imdecode(np.frombuffer(blocks, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:  # of a header that no image can have
        return None


def _image_blocks(png: bytes) -> bytes | None:
    """Returns a PNG file without what is beside its image; None where it is cut off.

    A block is the length of its data, four letters, the first of which is a capital in
    what every reader must know, the data, and a checksum.
    """
    if not png.startswith(PNG):
        return None
    kept, at = [PNG], len(PNG)
    while at + 12 <= len(png):
        end = at + 12 + int.from_bytes(png[at : at + 4])
        if end > len(png):
            return None
        name = png[at + 4 : at + 8]
        if name[:1].isupper():
            kept.append(png[at:end])
        if name == b"IEND":
            break
        at = end
    return b"".join(kept)
