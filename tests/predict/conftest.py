"""Small untrained networks, exported."""

import pytest

import export
import train
from cmbjax.train.config import TrainConfig
from tests.predict.scenes import HAS_ONNX


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """Exported networks of 32 pixels: without a 3-D head, with one, and rolling."""
    folder = tmp_path_factory.mktemp("small")
    exported = {}
    for head in ("none", "maps"):
        run_dir = folder / head
        train.main(
            TrainConfig(
                dataset="mannequin/tiny",
                tfds_dir=folder / "tfds",
                run_dir=run_dir,
                side=32,
                width=0.125,
                batch_size=2,
                num_steps=2,
                head3d=head,
                r_switch_step=0,
            )
        )
        formats = "weights+onnx" if HAS_ONNX else "weights"
        options = {"run_dir": run_dir, "format": formats, "num_frames": 2}
        exported[head] = export.main(export.ExportConfig(**options))
    exported["rolling"] = export.main(export.ExportConfig(memory="rolling", **options))
    return exported
