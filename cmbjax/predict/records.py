"""Poses as records: lines of JSON, and COCO keypoints."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cmbjax.predict.predictor import Pose
from cmbjax.skeletons import Skeleton


def line(
    path: Path, poses: Sequence[Pose], camera: np.ndarray, skeleton: Skeleton
) -> dict[str, Any]:
    """Returns a line of poses.jsonl."""
    return {
        "frame": str(path),
        "camera": _rounded(camera, 3),
        "joints": skeleton.joints,
        "people": [
            {
                "box": _rounded(pose.box, 1),
                "depth_m": round(pose.depth_m, 3),
                "joints_px": _rounded(pose.joints_px, 2),
                "joints_m": _rounded(pose.joints_m, 4),
                "confidence": _rounded(pose.confidence, 3),
                "visibility": pose.visibility.tolist(),
            }
            for pose in poses
        ],
    }


class Coco:
    """COCO keypoints of frame after frame, as the data set `folder` reads them."""

    def __init__(self, skeleton: Skeleton, out_dir: Path) -> None:
        """Begins without frames.

        Args:
            skeleton: Of the poses.
            out_dir: Where the file will lie: names of frames are relative to it.
        """
        self.skeleton, self.out_dir = skeleton, out_dir
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.cameras: set[tuple[float, ...]] = set()

    def add(
        self,
        path: Path,
        poses: Sequence[Pose],
        camera: np.ndarray,
        shape: tuple[int, ...],
    ) -> None:
        """Adds a frame of shape [height, width]."""
        image_id = len(self.images)
        height, width = shape
        self.cameras.add(tuple(camera.tolist()))
        self.images.append(
            {
                "id": image_id,
                "file_name": os.path.relpath(path, self.out_dir),
                "width": width,
                "height": height,
            }
        )
        for pose in poses:
            is_there = pose.visibility > 0
            places = np.where(is_there[:, None], pose.joints_px, 0)
            keypoints = np.column_stack([places, pose.visibility]).ravel()
            x0, y0, x1, y1 = pose.box.tolist()
            self.annotations.append(
                {
                    "id": len(self.annotations),
                    "image_id": image_id,
                    "category_id": 1,
                    "keypoints": _rounded(keypoints, 2),
                    "num_keypoints": int(is_there.sum()),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": 0,
                    "score": round(float(pose.confidence.mean()), 4),
                    "joints_m": _rounded(pose.joints_m, 4),
                }
            )

    def to_json(self) -> dict[str, Any]:
        """Returns the file's content; without a camera where frames have several."""
        bones = [
            [parent + 1, joint + 1]
            for joint, parent in enumerate(self.skeleton.parents)
            if parent >= 0
        ]
        info: dict[str, Any] = {"description": "predicted by cmbjax"}
        if len(self.cameras) == 1:
            (camera,) = self.cameras
            info["camera"] = dict(zip(("fx", "fy", "cx", "cy"), camera, strict=True))
        return {
            "info": info,
            "categories": [
                {
                    "id": 1,
                    "name": "person",
                    "keypoints": list(self.skeleton.joints),
                    "skeleton": bones,
                }
            ],
            "images": self.images,
            "annotations": self.annotations,
        }


def _rounded(values: np.ndarray, digits: int) -> list[Any]:
    return np.round(values.astype(float), digits).tolist()
