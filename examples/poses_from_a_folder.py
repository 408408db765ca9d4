"""Poses of the nearest person in each frame of a folder, in metres.

python examples/poses_from_a_folder.py my_frames
"""

import sys
from pathlib import Path

import cmbjax


def main(folder: Path) -> list[float]:
    """Prints where each frame's head is, and returns how far away people are."""
    predictor = cmbjax.Predictor()  # camera=(fx, fy, cx, cy) makes the metres exact
    head = predictor.skeleton.joints.index("head")
    depths = []
    for number, poses in enumerate(predictor.stream(folder)):
        for pose in poses:
            x, y, z = pose.joints_m[head]
            print(f"frame {number}: head at {x:+.2f} {y:+.2f} {z:.2f} m")
            depths.append(pose.depth_m)
    return depths


if __name__ == "__main__":
    main(Path(sys.argv[1]))
