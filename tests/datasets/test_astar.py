"""ASTAR in the format its public loader reads: headerless depth, z, x, y labels."""

import shutil

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from cmbjax.camera import camera_to_pixels
from datasets.astar.astar import Astar, AstarConfig, read_label, subjects_of
from tests import fabricate


def prepare(source, data_dir, config=None):
    astar = Astar(config=config, data_dir=data_dir, file_format="array_record")
    download = tfds.download.DownloadConfig(manual_dir=source)
    astar.download_and_prepare(download_config=download)
    return astar


def read(astar, split):
    source = astar.as_data_source(split, decoders={"depth": tfds.decode.SkipDecoding()})
    return {example["frame"].decode(): example for example in source}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("astar")
    fabricate.astar(folder)
    return folder


@pytest.fixture(scope="module")
def astar(source, tmp_path_factory):
    return prepare(source, tmp_path_factory.mktemp("tfds"))


@pytest.fixture
def broken(source, tmp_path):
    return shutil.copytree(source, tmp_path / "source")


@pytest.fixture
def frame(astar):
    return read(astar, "train")["Training_Dataset/p16_001_skdepth"]


def assert_refused(source, tmp_path, error, match):
    with pytest.raises(error, match=match):
        prepare(source, tmp_path / "tfds")
    again = Astar(data_dir=tmp_path / "tfds", file_format="array_record")
    assert not again.is_prepared()
    assert not list((tmp_path / "tfds").rglob("*array_record*"))


def test_depth_is_read_row_by_row_and_saturation_is_no_reading(frame):
    png = np.frombuffer(frame["depth"], np.uint8)
    depth = cv2.imdecode(png, cv2.IMREAD_UNCHANGED)
    assert (depth.shape, depth.dtype) == ((240, 320), np.uint16)
    assert depth[3, 1:6].tolist() == [900, 0, 900, 900, 321]


def test_labels_are_pixels_from_the_image_centre(frame):
    # Joint 3 of frame 1: x = 18 - 60 + 1 = -41, y = 12 - 50 = -38.
    np.testing.assert_array_equal(frame["joints_px"][3], [160 - 41, 120 - 38])


def test_metres_come_from_the_focal_length(frame):
    # z = 503 mm, and -41 and -38 px over 241.42 px of it.
    expected = [-41 / 241.42 * 0.503, -38 / 241.42 * 0.503, 0.503]
    np.testing.assert_allclose(frame["joints_m"][3], expected, rtol=1e-5)
    projected = camera_to_pixels(frame["joints_m"], frame["camera"])
    np.testing.assert_allclose(projected, frame["joints_px"], atol=1e-4)


def test_another_focal_length_is_another_data_set(source, tmp_path):
    wide = prepare(source, tmp_path, AstarConfig(focal_px=200.0))
    example = read(wide, "test")["Test_Dataset/p02_000_skdepth"]
    assert wide.builder_config.name == "focal_200"
    # Joint 0 of frame 0: z = 500 mm, x = -60 px, y = -50 px.
    np.testing.assert_allclose(example["joints_m"][0], [-0.15, -0.125, 0.5], rtol=1e-6)
    np.testing.assert_array_equal(example["camera"], [200, 200, 160, 120])
    assert not Astar(data_dir=tmp_path, file_format="array_record").is_prepared()


@pytest.mark.parametrize("focal_px", [0, 1e-44, 1e30, np.nan, np.inf])
def test_a_focal_length_is_that_of_a_camera(focal_px):
    match = "focal_px must be between 1 and 1e.06, got "
    with pytest.raises(ValueError, match=match):
        AstarConfig(focal_px=focal_px)


def test_a_joint_without_distance_does_not_count(broken, tmp_path):
    path = broken / "Test_Dataset/p01_000_shand"
    path.write_text(path.read_text().replace("503,", "0,"))
    example = read(prepare(broken, tmp_path), "test")["Test_Dataset/p01_000_skdepth"]
    assert np.flatnonzero(~example["visible"]).tolist() == [3]
    assert np.isnan(example["joints_m"][3]).all()
    assert np.isfinite(example["joints_m"][4]).all()


def test_whole_subjects_are_held_out(astar):
    subjects = {
        split: {example["subject"] for example in read(astar, split).values()}
        for split in ("train", "validation", "test")
    }
    assert subjects == {
        "train": {b"16", b"17"},
        "validation": {b"18"},
        "test": {b"01", b"02"},
    }


def test_blocks_are_held_out_where_names_tell_no_subject(tmp_path):
    fabricate.astar(
        tmp_path / "source",
        names="{subject}{frame:05d}_",
        frames_each=8,
        train_subjects=(100, 200, 300),
    )
    astar = prepare(tmp_path / "source", tmp_path)
    # 24 frames make four blocks of two, then sixteen of one.
    assert sorted(read(astar, "validation")) == [
        f"Training_Dataset/{n}_skdepth" for n in (20000000, 30000002)
    ]
    assert {e["subject"] for e in read(astar, "train").values()} == {b""}


def test_a_number_that_is_always_a_known_subject_is_the_subject():
    assert subjects_of(["1_16_7", "1_17_16"], range(16, 31)) == ["16", "17"]
    assert subjects_of(["1_16_7", "1_31_16"], range(16, 31)) == ["", ""]
    # All frames from one number are not told apart by it.
    assert subjects_of(["16_40", "16_41"], range(16, 31)) == ["", ""]


def test_metadata_outlives_the_builder(astar):
    again = Astar(data_dir=astar.data_dir_root, file_format="array_record")
    assert again.info.metadata["skeleton"] == "hand20"
    assert again.info.metadata["depth_unit"] == "mm"


def test_the_summary_compares_labels_with_depth(source, tmp_path, capsys):
    prepare(source, tmp_path)
    out = capsys.readouterr().out
    assert "WARNING: train frames: 9, expected 435" in out
    assert "WARNING: test subjects told by the names: 2, expected 15" in out
    assert "  train joints within 50 mm of the depth there, %: 100 (exp" in out


def test_labels_that_the_depth_contradicts_are_warned_of(broken, tmp_path, capsys):
    for path in (broken / "Test_Dataset").glob("*shand"):
        path.write_text(path.read_text().replace(",-50,", ",50,").replace(",5", ",7"))
    prepare(broken, tmp_path)
    out = capsys.readouterr().out
    assert "WARNING: test joints within 50 mm of the depth there, %: " in out


def test_missing_folders_are_listed(tmp_path):
    match = "(?s)does not exist.*Training_Dataset.*Test_Dataset.*datasets/astar/README"
    assert_refused(tmp_path / "absent", tmp_path, FileNotFoundError, match)


def test_an_empty_folder_is_refused(broken, tmp_path):
    shutil.rmtree(broken / "Test_Dataset")
    (broken / "Test_Dataset").mkdir()
    match = "Test_Dataset: holds no label file named <frame>shand"
    assert_refused(broken, tmp_path, FileNotFoundError, match)


def test_a_label_without_depth_is_refused(broken, tmp_path):
    (broken / "Test_Dataset/p02_001_skdepth").unlink()
    match = "p02_001_shand: its depth file .*p02_001_skdepth is missing"
    assert_refused(broken, tmp_path, FileNotFoundError, match)


def test_a_truncated_frame_is_refused(broken, tmp_path):
    path = broken / "Test_Dataset/p02_001_skdepth"
    path.write_bytes(path.read_bytes()[:-2])
    match = "p02_001_skdepth: expected 153600 bytes .*, got 153598"
    assert_refused(broken, tmp_path, ValueError, match)


def test_a_label_of_wrong_length_is_refused(broken, tmp_path):
    (broken / "Test_Dataset/p02_001_shand").write_text("500,1,2,501,3,4")
    match = "p02_001_shand: expected one line of 60 comma-separated numbers, got '500"
    assert_refused(broken, tmp_path, ValueError, match)


@pytest.mark.parametrize("text", ["", "nan," * 60, "one," * 60, "1," * 61])
def test_a_label_of_another_form_is_refused(text, tmp_path):
    (tmp_path / "shand").write_text(text)
    with pytest.raises(ValueError, match="shand: expected one line of 60"):
        read_label(tmp_path / "shand")


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (3, "z must be from -100000 to 100000, got 1e.30"),
        (4, "x and y must be from -100000 to 100000, got 1e.30"),
    ],
)
def test_a_label_beyond_what_a_camera_sees_is_refused(tmp_path, number, says):
    numbers = [str(n) for n in range(60)]
    numbers[number] = "1e30"
    (tmp_path / "shand").write_text(",".join(numbers))
    with pytest.raises(ValueError, match=f"shand: {says}"):
        read_label(tmp_path / "shand")


def test_numbers_beyond_float32_are_no_label(tmp_path):
    (tmp_path / "shand").write_text(",".join(["1e300"] * 60))
    with pytest.raises(ValueError, match="shand: expected one line of 60"):
        read_label(tmp_path / "shand")


def test_a_label_longer_than_any_is_refused(tmp_path):
    (tmp_path / "shand").write_text("1," * 60 + " " * 10_000)
    with pytest.raises(ValueError, match="shand: expected at most 10000 bytes, got mo"):
        read_label(tmp_path / "shand")


def test_a_label_may_lack_the_trailing_separator(tmp_path):
    (tmp_path / "shand").write_text(",".join(str(n) for n in range(60)) + "\n")
    joints_px, z_mm = read_label(tmp_path / "shand")
    np.testing.assert_array_equal(joints_px[1], [164, 125])
    assert z_mm[1] == 3
