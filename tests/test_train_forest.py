"""A forest's folder: who makes it, who goes on in it, and what it keeps."""

import dataclasses

import numpy as np
import pytest

import train_forest
from cmbjax.files import only_one, read_json, read_npz
from datasets.mannequin.mannequin import make_example
from tests.data.test_batches import make_frames
from train_forest import ForestConfig

FRAMES = {
    split: make_frames([make_example(0, split, i) for i in range(6)], name=split)
    for split in ("train", "test")
}


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Of a small forest on a few figures."""
    monkeypatch.setattr(train_forest, "_load", lambda config, split: FRAMES[split])
    return ForestConfig(
        model="rtw", max_depth=3, run_dir=tmp_path / "forest", crop="label_box"
    )


def files_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_forest_is_found_again_or_refused_by_the_files_name(config, monkeypatch):
    columns = train_forest.main(config)
    folder = config.run_dir
    assert files_in(folder) == ["evaluations", "forest.json", "forest.npz", "lock"]
    path = folder / "forest.npz"
    whole = path.read_bytes()

    def grow(*_, **__):
        raise AssertionError("it is there")

    monkeypatch.setattr(train_forest.walks, "grow", grow)
    assert train_forest.main(config) == columns
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for damaged in (bytes(flipped), b"", b"junk", whole[:-100]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="forest.npz: expected a whole .npz"):
            train_forest.main(config)
        assert path.read_bytes() == damaged
    arrays = read_npz_of(whole, path)
    np.savez(path, **{k: v for k, v in arrays.items() if "children" not in k})
    match = "forest.npz holds no forest of --model=rtw: 'walks/0/children'"
    with pytest.raises(ValueError, match=match):
        train_forest.main(config)
    other = dataclasses.replace(config, max_depth=4)
    with pytest.raises(ValueError, match="max_depth: 3 there, 4 here"):
        train_forest.main(other)
    assert read_json(folder / "forest.json")["max_depth"] == 3


def read_npz_of(content, path):
    path.write_bytes(content)
    return read_npz(path)


def test_a_folder_of_others_is_left_alone(config):
    config.run_dir.mkdir()
    (config.run_dir / "thesis.txt").write_text("do not lose me")
    with pytest.raises(ValueError, match="is not empty and holds no forest.json"):
        train_forest.main(config)
    assert files_in(config.run_dir) == ["thesis.txt"]


def test_two_do_not_grow_in_one_folder(config):
    train_forest.claim(config, config.run_dir, FRAMES["train"])
    with only_one(config.run_dir / "lock", "the first one"):
        with pytest.raises(ValueError, match=r"another train_forest\.py is at work"):
            train_forest.main(config)


def test_frames_that_nobody_finds_are_seen_in_the_labels_box(config, monkeypatch):
    """As networks see ITOP's from above, and ASTAR's; the reach is the method's own."""
    above = {k: dataclasses.replace(v, findable=False) for k, v in FRAMES.items()}
    monkeypatch.setattr(train_forest, "_load", lambda config, split: above[split])
    train_forest.main(dataclasses.replace(config, crop=None))
    results = read_json(config.run_dir / "evaluations/label_box/results.json")
    assert results["crop"] == "label_box" and results["person_found"] == "6 of 6"
    assert results["reach"] == read_json(config.run_dir / "forest.json")["reach"] == 150
    farther = dataclasses.replace(config, reach=200.0)
    with pytest.raises(ValueError, match=r"reach: 150\.0 there, 200\.0 here"):
        train_forest.main(farther)


def test_what_is_refused_leaves_no_folder(config, monkeypatch):
    flat = dataclasses.replace(FRAMES["train"], metric=False)
    monkeypatch.setattr(train_forest, "_load", lambda config, split: flat)
    with pytest.raises(ValueError, match="train has no metres"):
        train_forest.main(config)
    assert not config.run_dir.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"max_depth": -5}, "--max_depth must be from 1 to 64, got -5"),
        ({"max_depth": 10**9}, "--max_depth must be from 1 to 64, got 1000000000"),
        ({"reach": 0.0}, "--reach must be from 1 to 1000, got 0.0"),
        ({"num_frames": 0}, "--num_frames must be at least 1, got 0"),
        ({"seed": 2**40}, "--seed must be from 0 to 4294967295, got"),
    ],
)
def test_bad_flag_is_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        ForestConfig(**flags)
