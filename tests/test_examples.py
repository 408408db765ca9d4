"""The examples and the code in the documents run, and do what they say."""

import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

from cmbjax.camera import ITOP_CAMERA
from cmbjax.skeletons import BODY15
from datasets.mannequin.frames import make_frame
from datasets.schema import encode_png

ROOT = Path(__file__).parents[1]


def example(name):
    return runpy.run_path(str(ROOT / "examples" / f"{name}.py"))["main"]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A folder of labelled frames, as a user has one: two of each split."""
    folder = tmp_path_factory.mktemp("labelled")
    fx, fy, cx, cy = ITOP_CAMERA.tolist()
    for number, split in enumerate(("train", "validation", "test")):
        images, annotations = [], []
        for index in (2 * number, 2 * number + 1):
            frame = make_frame(0, "test", index)
            (folder / f"{index}.png").write_bytes(encode_png(frame.depth_mm))
            images.append({"id": index, "file_name": f"{index}.png"})
            keypoints = np.c_[frame.joints_px, 2 * np.ones(15)].ravel().tolist()
            annotations.append(
                {
                    "id": index,
                    "image_id": index,
                    "keypoints": keypoints,
                    "joints_m": frame.joints_m.tolist(),
                    "subject": split,
                }
            )
        content = {
            "info": {"camera": {"fx": fx, "fy": fy, "cx": cx, "cy": cy}},
            "categories": [{"id": 1, "name": "person", "keypoints": BODY15.joints}],
            "images": images,
            "annotations": annotations,
        }
        (folder / f"{split}.json").write_text(json.dumps(content))
    return folder


def test_poses_from_a_folder(labelled, capsys):
    depths = example("poses_from_a_folder")(labelled)
    # In one of the six frames the detector is not sure of the person.
    assert len(depths) >= 5 and all(1 < depth < 5 for depth in depths)
    assert capsys.readouterr().out.startswith("frame 0: head at ")


def test_fine_tuning_starts_from_the_shipped_weights(labelled, tmp_path, capsys):
    run_dir = tmp_path / "run"
    score = example("fine_tune")(labelled, run_dir, num_steps=2)
    printed = capsys.readouterr().out
    taken, number = map(int, re.search(r"(\d+) of (\d+) arrays", printed).groups())
    assert taken == number > 50
    # Two steps of a small rate: it still is the shipped network.
    assert score > 80
    config = json.loads((run_dir / "config.json").read_text())
    assert config["init_from"] == "people-96"


def test_block_in_another_network_learns_and_its_memory_changes(capsys):
    assert example("block_in_a_network")() > 0.9
    assert "new images told apart" in capsys.readouterr().out


@pytest.mark.parametrize("page", ["README.md", "docs/block.md"])
def test_code_in_the_documents_about_blocks_runs(page):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    names = {"depth": np.zeros((1, 96, 96, 1), np.float32)}
    for block in blocks:
        if "cmbjax.models" in block or "cmbjax.load" in block:
            exec(block, names)
    assert "variables" in names
