"""Grows and tests the compared forests: `python train_forest.py --model=rf`."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from tqdm import tqdm

import datasets
from cmbjax import metrics
from cmbjax.data.examples import DepthFrames, Example, decode_depth, frame_name
from cmbjax.data.flags import DataFlags, check_ranges
from cmbjax.depth import lifting
from cmbjax.evaluate import report
from cmbjax.evaluate.predictions import Result
from cmbjax.files import only_one, read_npz, whole_file
from cmbjax.forests import parts, votes, walks
from cmbjax.forests.bodies import cut_out, reach_mm, to_pixels
from cmbjax.scripts import script
from cmbjax.train.run import claim_folder
from cmbjax.train.statistics import Statistics, training_statistics

FORESTS: dict[str, tuple[Any, Any]] = {
    "rf": (parts, parts.PartsForest),
    "rtw": (walks, walks.WalkingTrees),
    "xu_cheng": (votes, votes.VotingForest),
}
FOREST_FILE, CONFIG_FILE = "forest.npz", "forest.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForestConfig(DataFlags):
    """Grows a forest on one data set in metres, and tests it as evaluate.py does."""

    model: Literal["rf", "rtw", "xu_cheng"] = "rf"
    """rf: parts of the body (Shotton et al.); rtw: random tree walks (Jung et al.);
    xu_cheng: votes for a hand's joints (Xu & Cheng)."""
    run_dir: Path | None = None
    """Gets the forest and its results; by default runs/<dataset>_<model>."""
    num_frames: int = 4000
    """Of the training split, evenly spaced, at most."""
    max_depth: int = 20
    """Splits from a root to a leaf, at most."""
    reach: float | None = None
    """Of the depth differences around a pixel, pixel metres: at 1 m so many pixels; by
    default 129 (rf), 150 (rtw) or 25 (xu_cheng)."""
    crop: Literal["person", "label_box"] | None = None
    """Whether people are found in test frames, or their labels' boxes and depths are
    taken; by default as networks have it: for astar and itop/top label_box."""
    seed: int = 0
    """Of pixels, features, trees and walks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, {"max_depth": (1, 64), "reach": (1, 1000)})

    @property
    def reach_of_features(self) -> float:
        """Pixel metres."""
        return self.reach or FORESTS[self.model][0].REACH


def main(config: ForestConfig) -> metrics.Columns:
    """Grows a forest unless it is there, prints its table, and returns that.

    Raises:
        ValueError: The folder holds another forest, or the data set has no metres.
    """
    name = f"{config.dataset.replace('/', '_')}_{config.model}"
    run_dir = config.run_dir or Path("runs") / name
    frames, test = (_load(config, split) for split in ("train", "test"))
    if not frames.metric:
        raise ValueError(f"{frames.name} has no metres, which forests are grown on")
    claim(config, run_dir, frames)
    with only_one(
        run_dir / "lock",
        f"--run_dir={run_dir}: another train_forest.py is at work in this folder",
    ):
        return grow_and_test(config, run_dir, frames, test)


def claim(config: ForestConfig, run_dir: Path, frames: DepthFrames) -> None:
    """Makes the folder of a forest, or finds it to be of this config and these frames.

    Raises:
        ValueError: It holds a forest of another, or something else.
    """
    flags = ("dataset", "model", "num_frames", "max_depth", "seed")
    mine = {name: getattr(config, name) for name in flags}
    mine |= {"reach": config.reach_of_features, "frames": frames.name}
    claim_folder(run_dir / CONFIG_FILE, mine, "a forest")


def grow_and_test(
    config: ForestConfig, run_dir: Path, frames: DepthFrames, test: DepthFrames
) -> metrics.Columns:
    """Does what `main` does, in a folder that is this process' own."""
    statistics = training_statistics(frames)
    forest, seconds = grown(config, run_dir, frames)
    crop = config.crop or test.crop
    start = time.perf_counter()
    result = evaluate(forest, test, statistics, labelled=crop == "label_box")
    ms = 1000 * (time.perf_counter() - start) / max(1, len(result.names))
    columns = report.results_table(result, test.skeleton, ["all"], None)
    megabytes = (run_dir / FOREST_FILE).stat().st_size / 1e6
    about = {
        "model": config.model,
        "frames": test.name,
        "trained_on": f"{min(config.num_frames, len(frames))} frames of {frames.name}",
        "num_frames": len(result.names),
        "crop": crop,
        "reach": config.reach_of_features,
        "person_found": f"{int(result.is_found.sum())} of {len(result.names)}",
        "growing_s": seconds,
        "ms_a_frame": ms,
        "megabytes": megabytes,
    }
    out_dir = run_dir / "evaluations" / crop
    report.write_results(out_dir, result, test, columns, about, None)
    print(metrics.format_table(columns))
    print(
        f"{about['person_found']} people found; {ms:.0f} ms a frame, {megabytes:.1f} MB"
    )
    print(f"Details and pictures: {out_dir}")
    return columns


def _load(config: ForestConfig, split: str) -> DepthFrames:
    return datasets.load(config.dataset, config.data_dir, config.tfds_dir, split=split)


def grown(
    config: ForestConfig, run_dir: Path, frames: DepthFrames
) -> tuple[Any, float | None]:
    """Returns the forest in a folder, grown if there is none, and seconds if it was.

    Raises:
        ValueError: The file in the folder is damaged.
    """
    path = run_dir / FOREST_FILE
    module, kind = FORESTS[config.model]
    if path.exists():
        arrays = read_npz(path)
        try:
            return kind.of(arrays, frames.skeleton), None
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise ValueError(
                f"{path} holds no forest of --model={config.model}: {error}"
            ) from None
    start = time.perf_counter()
    chosen = _spaced(frames.source, config.num_frames)
    forest = module.grow(
        dataclasses.replace(frames, source=chosen),
        seed=config.seed,
        max_depth=config.max_depth,
        reach=config.reach_of_features,
    )
    seconds = time.perf_counter() - start
    with whole_file(path) as file:
        np.savez_compressed(file, **forest.arrays)
    return forest, seconds


def _spaced(source: Sequence[Example], number: int) -> list[Example]:
    """Returns at most so many examples, evenly spaced."""
    number = min(number, len(source))
    return [source[i * len(source) // number] for i in range(number)]


def evaluate(
    forest: Any, frames: DepthFrames, statistics: Statistics, *, labelled: bool
) -> Result:
    """Returns the poses of a split; a joint of nobody found is nowhere.

    Args:
        forest: Of `grown`.
        frames: The split.
        statistics: Of the training split, for the floor.
        labelled: Whether boxes are the labels'.

    Raises:
        ValueError: There are no frames.
    """
    if not len(frames.source):
        raise ValueError(f"{frames.name}: the split has no frames")
    skeleton = frames.skeleton
    rows: list[dict[str, Any]] = []
    for index in tqdm(range(len(frames)), unit="frame", mininterval=5):
        example = frames.source[index]
        body = cut_out(example, frames, labelled=labelled)
        pose, score = np.full((skeleton.num_joints, 3), np.nan), np.zeros(1)
        if body is not None:
            pose, score = forest.predict(body)
        labels = {name: example[name] for name in ("joints_px", "joints_m", "visible")}
        rows.append(
            {
                **labels,
                "pose_m": pose.astype(np.float32),
                "pose_px": to_pixels(pose, example["camera"]).astype(np.float32),
                "score": np.broadcast_to(score, skeleton.num_joints),
                "is_found": body is not None,
                "name": frame_name(example),
                **floor_of(example, frames, statistics),
            }
        )
    stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def poses(pixels: str, metres: str) -> metrics.Poses:
        truth = (stacked["joints_px"], stacked["visible"])
        return metrics.Poses(
            stacked[pixels], *truth, stacked[metres], stacked["joints_m"]
        )

    return Result(
        poses("pose_px", "pose_m"),
        poses("floor_px", "floor_m"),
        poses("joints_px", "joints_m"),
        stacked["score"],
        stacked["is_found"],
        [row["name"] for row in rows],
        others={},
    )


def floor_of(
    example: Example, frames: DepthFrames, statistics: Statistics
) -> dict[str, np.ndarray]:
    """Returns the mean training pose in the label's box, its depth looked up."""
    joints_px, visible = example["joints_px"], example["visible"]
    box = metrics.label_boxes(joints_px[None], visible[None])
    (floor_px,) = np.asarray(metrics.place(statistics.mean_pose, box))
    floor_m = lifting.lift(
        decode_depth(example),
        floor_px,
        1000 * float(np.nanmedian(example["joints_m"][:, 2])),
        np.asarray(example["camera"], np.float32),
        statistics.offsets_m,
        reach_mm=reach_mm(frames),
        limb_m=frames.skeleton.limb_m,
    )
    return {"floor_px": floor_px, "floor_m": floor_m.astype(np.float32)}


if __name__ == "__main__":
    with script("train_forest.py"):
        main(tyro.cli(ForestConfig, use_underscores=True))
