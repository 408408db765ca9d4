"""Depth images as a camera or a file gives them."""

from pathlib import Path

import cv2
import numpy as np

ENDINGS = (".png", ".npy")
NEAREST_M, FARTHEST_M = 0.05, 50.0  # a median reading outside is in other units


def files_of(folder: Path) -> list[Path]:
    """Returns the frames in a folder, or the one that a path names, sorted by name.

    Raises:
        FileNotFoundError: There is nothing.
        ValueError: There is no frame among what is there.
    """
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: no such file or folder")
    if folder.is_file():
        return [folder]
    frames = sorted(path for path in folder.iterdir() if path.suffix in ENDINGS)
    if not frames:
        raise ValueError(f"{folder}: no frames in it; expected .png or .npy files")
    return frames


def read_frame(path: Path) -> np.ndarray:
    """Reads a frame: a 16-bit PNG, or an array in a .npy file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is of another kind, or damaged.
    """
    if path.suffix == ".png":
        return read_png(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such frame")
    if path.suffix != ".npy":
        raise ValueError(f"{path}: expected a .png or .npy file, got {path.suffix!r}")
    try:
        frame = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path}: not a whole .npy array ({error})") from None
    return np.asarray(frame)


def to_millimetres(
    frame: np.ndarray, *, depth_scale: float = 0.001, name: str = "the frame"
) -> np.ndarray:
    """Returns a frame in millimetres, 0 = no reading; beyond 65.5 m there is none.

    Args:
        frame: [height, width] or [height, width, 1]: integers, 0 = no reading, or
            floats in metres, where 0, NaN and infinity are none (as in ROS).
        depth_scale: Metres per unit of integers.
        name: For errors.

    Raises:
        ValueError: It has another shape or type, holds no reading at all or negative
            ones, or its readings are no distances of a room in that unit.
    """
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
    metres = np.where(np.isfinite(frame), frame, 0).astype(np.float64)
    metres *= 1.0 if is_float else depth_scale
    if (metres < 0).any():
        raise ValueError(f"{name}: negative depth, from {metres.min():g} m")
    valid = metres[metres > 0]
    if not valid.size:
        holes = "NaN or infinite" if is_float and np.isnan(frame).any() else "0"
        raise ValueError(f"{name}: no reading in it, every pixel is {holes}")
    median = float(np.median(valid))
    if not NEAREST_M <= median <= FARTHEST_M:
        unit = "floats are metres" if is_float else f"a unit is {depth_scale:g} m"
        raise ValueError(
            f"{name}: the median depth is {median:g} m, as {unit}; expected "
            f"{NEAREST_M:g} to {FARTHEST_M:g} m: another unit?"
        )
    millimetres = np.rint(1000 * metres)
    return np.where(millimetres < 2**16, millimetres, 0).astype(np.uint16)


def checked_depth(depth: np.ndarray, name: str, *, metric: bool) -> np.ndarray:
    """Returns an image that people can be looked for in.

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
    return depth


def read_png(path: Path, dtype: type[np.generic] = np.uint16) -> np.ndarray:
    """Reads a depth image.

    Args:
        path: A PNG file.
        dtype: np.uint16 or np.uint8: what the file must hold.

    Returns:
        [height, width] uint16; of an image with several equal channels the first.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, of another dtype, or has unequal channels.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such depth image")
    png = np.frombuffer(path.read_bytes(), np.uint8)
    image = cv2.imdecode(png, cv2.IMREAD_UNCHANGED) if png.size else None
    if image is None:
        raise ValueError(f"{path}: not a whole PNG image ({png.size} bytes)")
    if image.dtype != dtype:
        raise ValueError(
            f"{path}: expected {8 * np.dtype(dtype).itemsize} bits a channel, "
            f"got {8 * image.dtype.itemsize}"
        )
    channels = image.reshape(*image.shape[:2], -1)[..., :3]  # a fourth is opacity
    if (channels != channels[..., :1]).any():
        raise ValueError(f"{path}: a colour image; expected equal channels of depth")
    return channels[..., 0].astype(np.uint16)
