"""Every kind of file that is read here: a good one, and what reads it."""

import dataclasses
import json
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

import datasets
import predict
from cmbjax.depth import detector, images
from cmbjax.files import write_json
from cmbjax.models import MODELS
from cmbjax.predict.card import CARD_FILE, WEIGHTS, read_card
from cmbjax.predict.predictor import Predictor
from cmbjax.predict.runtimes import load_weights
from cmbjax.train.checkpoints import Checkpoints
from cmbjax.train.config import TrainConfig
from cmbjax.train.loop import read_records
from cmbjax.train.run import Run
from cmbjax.train.statistics import Statistics
from datasets import schema
from datasets.astar.astar import Astar
from datasets.builder import FrameBuilder
from datasets.folder import coco
from datasets.itop.itop import Itop
from datasets.k2hpd.k2hpd import K2hpd
from datasets.people.motion import read_clips
from datasets.utd_mhad.utd_mhad import UtdMhad
from tests import fabricate
from tests.data.test_batches import batches
from tests.datasets.test_people import write_motions
from tests.hostile import mutate


@dataclasses.dataclass(frozen=True)
class Target:
    """A kind of file.

    Attributes:
        name: Of the kind.
        make: Fills a folder.
        read: Reads what is in it.
        mutations: How the files of an ending are damaged.
        slow: Whether a reading takes tenths of seconds.
    """

    name: str
    make: Callable[[Path], object]
    read: Callable[[Path], object]
    mutations: dict[str, mutate.Mutation]
    slow: bool = False

    def files(self, folder: Path) -> list[Path]:
        """Returns the files that are damaged."""
        return sorted(
            path
            for ending in self.mutations
            for path in folder.rglob(f"*{ending}")
            if path.is_file() and path.stat().st_size
        )


def _depth() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(500, 4000, (48, 64)).astype(np.uint16)


def _png(folder: Path) -> None:
    (folder / "x.png").write_bytes(schema.encode_png(_depth()))


def _read_frame(folder: Path) -> None:
    for path in images.files_of(folder):
        images.to_millimetres(images.read_frame(path), name=str(path))


def _npy(folder: Path) -> None:
    np.save(folder / "x.npy", _depth() / np.float32(1000))


def _export(folder: Path) -> None:
    card = json.loads((WEIGHTS / "people-96" / CARD_FILE).read_text())
    (folder / CARD_FILE).write_text(json.dumps(card))
    for name in ("weights.npz", "network.onnx"):
        if name in card["files"]:
            (folder / name).write_bytes((WEIGHTS / "people-96" / name).read_bytes())


def _open_export(folder: Path) -> None:
    card = read_card(folder)
    for name in ("network.onnx", "weights.npz"):
        if name in card.files:
            card.file(name)


def _use_export(folder: Path) -> None:
    Predictor(folder)(
        np.full((48, 64), 2000, np.uint16), boxes=np.array([[9, 9, 40, 40]])
    )
    load_weights(read_card(folder))


def _run(folder: Path) -> None:
    run_dir = folder / "run"
    run_dir.mkdir()
    write_json(run_dir / "config.json", TrainConfig(width=0.125).to_json())
    mean = np.full((15, 2), 0.5, np.float32)
    statistics = Statistics("mannequin", "body15", mean, np.full(15, 0.1, np.float32))
    write_json(run_dir / "statistics.json", statistics.to_json())
    run = Run.open(run_dir)
    run.save_calibration(np.ones((15, 2)), "mannequin")
    records = [{"step": i, "loss": 1.0, "validation/PDJ": None} for i in range(9)]
    text = "".join(json.dumps(record) + "\n" for record in records)
    (run_dir / "metrics.jsonl").write_text(text)


def _open_run(folder: Path) -> None:
    run = Run.open(folder / "run")
    _ = run.statistics, run.calibration
    read_records(run.folder / "metrics.jsonl")


_LIKE: list[Any] = []


def _like() -> Any:
    if not _LIKE:
        model = MODELS["cmb"](num_joints=15, width=0.125)
        _LIKE.append(fabricate.state(model, optax.adam(1e-3), side=32, batch_size=2))
    return _LIKE[0]


def _checkpoints(folder: Path) -> None:
    (folder / "run").mkdir()
    checkpoints = Checkpoints(folder / "run")
    for step in (1, 2):
        checkpoints.save(_like()._replace(step=jnp.asarray(step)), batches())
    checkpoints.close()


def _restore(folder: Path) -> None:
    checkpoints = Checkpoints(folder / "run")
    try:
        checkpoints.restore(_like(), batches())
    finally:
        checkpoints.close()


def _poses(folder: Path) -> None:
    _png(folder)
    config = _predicting(folder)
    predict.main(config)


def _predicting(folder: Path) -> predict.PredictConfig:
    return predict.PredictConfig(
        frames=(folder / "x.png",),
        out_dir=folder / "out",
        network="people-96",
        overlays=False,
    )


def _go_on(folder: Path) -> None:
    (folder / "y.png").write_bytes((folder / "x.png").read_bytes())
    try:
        predict.main(_predicting(folder))
    finally:
        (folder / "y.png").unlink()


def _detector(folder: Path) -> None:
    for ending in (".onnx", ".json"):
        source = (detector.WEIGHTS / "detector/detector").with_suffix(ending)
        (folder / f"detector{ending}").write_bytes(source.read_bytes())


def _built(kind: Callable[..., FrameBuilder], **options: Any) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        builder = kind(data_dir=folder / "tfds", **options)
        builder._source, builder._bar = folder / "source", tqdm(disable=True)
        splits = builder.splits(builder._checked_source())
        for items in splits.values():
            for example in builder.examples(items[:2]) if items else ():
                _check_example(example)

    return read


def _check_example(example: dict[str, Any]) -> None:
    visible = example["visible"]
    assert (np.abs(example["joints_px"][visible]) <= schema.MOST_PX + 1).all()
    assert not (np.abs(example["joints_m"]) > schema.MOST_M).any()
    assert not (np.abs(example["camera"]) > schema.MOST_FOCAL_PX).any()


def _read_coco(folder: Path) -> None:
    content = coco.read(folder / "annotations.json")
    for person in content.persons:
        _check_example({**vars(person), "camera": content.camera})


def _prepared(folder: Path) -> None:
    fabricate.coco(folder / "frames")
    _read_prepared(folder)


def _read_prepared(folder: Path) -> None:
    builder = datasets.prepared("folder", folder / "frames", folder / "tfds")
    frames = list(builder.examples_of("test"))
    assert [x["joints_px"][7].tolist() for x in frames] == [
        [17.5, 20.25 + i] for i in range(3)
    ]


def _mocap(folder: Path) -> None:
    write_motions(folder / "01", clips=2)


def _motions(folder: Path) -> None:
    for clip in read_clips(folder):
        assert np.isfinite(clip.rotations).all() and np.isfinite(clip.directions).all()


def _archives(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as source:
        write_motions(Path(source) / "01", clips=2)
        for ending, form in (("", tarfile.USTAR_FORMAT), (".gz", tarfile.PAX_FORMAT)):
            (folder / f"x{ending}").mkdir()
            path = folder / f"x{ending}" / f"all.tar{ending}"
            with tarfile.open(path, f"w:{ending[1:]}", format=form) as archive:
                archive.add(Path(source) / "01", arcname="01")


BINARY = mutate.binary
TARGETS: Sequence[Target] = (
    Target("png", _png, _read_frame, {".png": BINARY}),
    Target("npy", _npy, _read_frame, {".npy": BINARY}),
    Target("card", _export, _open_export, {CARD_FILE: mutate.json_text}),
    Target(
        "export",
        _export,
        _use_export,
        {".npz": BINARY, ".onnx": BINARY, CARD_FILE: mutate.json_text},
        slow=True,
    ),
    Target("run", _run, _open_run, {".json": mutate.json_text, ".jsonl": mutate.lines}),
    Target("checkpoint", _checkpoints, _restore, {"": BINARY}, slow=True),
    Target(
        "poses",
        _poses,
        _go_on,
        {"settings.json": mutate.json_text, ".jsonl": mutate.lines},
        slow=True,
    ),
    Target(
        "detector",
        _detector,
        lambda folder: detector.Detector(folder / "detector.onnx"),
        {".onnx": BINARY, ".json": mutate.json_text},
    ),
    Target(
        "coco",
        fabricate.coco,
        _read_coco,
        {".json": mutate.json_text},
    ),
    Target(
        "prepared",
        _prepared,
        _read_prepared,
        {
            **{
                f"{name}.json": mutate.json_text
                for name in ("info", "data", "features", "sums")
            },
            "-of-00001": BINARY,
        },
        slow=True,
    ),
    Target(
        "k2hpd",
        lambda folder: fabricate.k2hpd(folder / "source"),
        _built(K2hpd),
        {".txt": mutate.text, "003.png": BINARY},
    ),
    Target(
        "itop",
        lambda folder: fabricate.itop(folder / "source"),
        _built(Itop, config="side"),
        {".h5": BINARY},
        slow=True,
    ),
    Target(
        "astar",
        lambda folder: fabricate.astar(folder / "source"),
        _built(Astar),
        {"shand": mutate.text, "skdepth": BINARY},
    ),
    Target("mocap", _mocap, _motions, {".asf": mutate.text, ".amc": mutate.text}),
    Target("archive", _archives, _motions, {".tar": BINARY, ".gz": BINARY}, slow=True),
    Target(
        "utd_mhad",
        lambda folder: fabricate.utd_mhad(folder / "source", frames=5),
        _built(UtdMhad),
        {".mat": BINARY},
    ),
)
