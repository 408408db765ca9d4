"""ITOP in its true format: streamed, valid frames only, into our camera frame."""

import gzip
import shutil

import cv2
import h5py
import numpy as np
import pytest
import tensorflow_datasets as tfds

from cmbjax.camera import camera_to_pixels
from datasets.itop.itop import Itop, metres_to_mm, part_labels
from tests import fabricate

ENCODED = {"depth": tfds.decode.SkipDecoding(), "parts": tfds.decode.SkipDecoding()}


def prepare(source, data_dir, view="side"):
    itop = Itop(config=view, data_dir=data_dir, file_format="array_record")
    config = tfds.download.DownloadConfig(manual_dir=source)
    itop.download_and_prepare(download_config=config)
    return itop


def read(itop, split):
    source = itop.as_data_source(split, decoders=ENCODED)
    return {example["frame"].decode(): example for example in source}


def decode(png):
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("itop")
    fabricate.itop(folder)
    fabricate.itop(folder, view="top")
    return folder


@pytest.fixture(scope="module")
def side(source, tmp_path_factory):
    return prepare(source, tmp_path_factory.mktemp("tfds"))


@pytest.fixture(scope="module")
def top(source, tmp_path_factory):
    return prepare(source, tmp_path_factory.mktemp("tfds"), "top")


@pytest.fixture
def broken(source, tmp_path):
    """A copy whose training labels and depth a test may spoil."""
    folder = tmp_path / "source"
    folder.mkdir()
    for path in source.glob("ITOP_side*"):
        shutil.copy(path, folder)
    return folder


def spoil(path, key, change):
    with h5py.File(path, "r+") as file:
        values = file[key][:]
        del file[key]
        file[key] = change(values)


def assert_refused(source, tmp_path, error, match):
    with pytest.raises(error, match=match):
        prepare(source, tmp_path / "tfds")
    again = Itop(data_dir=tmp_path / "tfds", file_format="array_record")
    assert not again.is_prepared()
    assert not list((tmp_path / "tfds").rglob("*array_record*"))


def test_depth_is_in_millimetres_with_holes_at_zero(side):
    depth = decode(read(side, "train")["04_00002"]["depth"])
    assert (depth.shape, depth.dtype) == ((240, 320), np.uint16)
    assert depth[20, 31:34].tolist() == [4000, 0, 1500]


def test_y_is_turned_to_point_down(side):
    # 4 cm to the right of STANDING; the head is 0.55 m above the optical axis.
    joints_m = read(side, "train")["04_00000"]["joints_m"]
    np.testing.assert_allclose(joints_m[0], [0.04, -0.55, 3.0], atol=1e-3)
    np.testing.assert_allclose(joints_m[14], [0.2, 1.12, 3.1], atol=2e-3)


def test_a_label_is_the_centre_of_its_pixel(side):
    # u = 160 + 0.04 / (3 * 0.0035) = 163.8, v = 120 - 0.55 / (3 * 0.0035) = 67.6
    joints_px = read(side, "train")["04_00000"]["joints_px"]
    np.testing.assert_array_equal(joints_px[0], [164.5, 68.5])


@pytest.mark.parametrize("view", ["side", "top"])
def test_metres_project_onto_the_pixel_labels(view, request):
    for example in read(request.getfixturevalue(view), "train").values():
        projected = camera_to_pixels(example["joints_m"], example["camera"])
        # The labels are rounded: half a pixel, and what float16 leaves of metres.
        assert np.abs(projected - example["joints_px"]).max() < 0.6
        np.testing.assert_allclose(
            np.mean(projected - example["joints_px"], 0), 0, atol=0.25
        )


@pytest.mark.parametrize("view", ["side", "top"])
def test_a_joint_lies_where_the_depth_image_shows_it(view, request):
    example = read(request.getfixturevalue(view), "train")["05_00001"]
    depth, part = decode(example["depth"]), decode(example["parts"])
    column, row = example["joints_px"][14].astype(int)  # the last one drawn
    assert depth[row, column] == round(1000 * float(example["joints_m"][14, 2]))
    assert part[row, column] == 15


def test_the_top_view_is_the_same_pose_from_the_ceiling(side, top):
    below = read(side, "train")["04_00001"]["joints_m"]
    above = read(top, "train")["04_00001"]["joints_m"]
    # In ITOP's y-up frames y_top = z_side - 2.85 and z_top = 1.5 - y_side.
    x, y, z = below.T
    expected = np.stack([x, 2.85 - z, 1.5 + y], axis=-1)
    np.testing.assert_allclose(above, expected, atol=4e-3)


def test_background_is_part_0_and_the_head_part_1(side):
    parts = decode(read(side, "test")["00_00000"]["parts"])
    assert parts.dtype == np.uint8
    assert parts[0, 0] == 0
    assert parts[68, 160] == 1


def test_only_valid_frames_are_kept_and_whole_persons_held_out(side):
    train = [f"{person}_{frame:05d}" for person in ("04", "05") for frame in range(3)]
    assert sorted(read(side, "train")) == train
    assert sorted(read(side, "validation")) == ["06_00000", "06_00001", "06_00002"]
    assert sorted(read(side, "test")) == ["00_00000", "00_00001", "00_00002"]
    assert {e["subject"] for e in read(side, "train").values()} == {b"04", b"05"}


def test_all_joints_count_whatever_visible_joints_says(broken, tmp_path):
    labels = broken / "ITOP_side_test_labels.h5"
    spoil(labels, "visible_joints", np.zeros_like)
    assert read(prepare(broken, tmp_path), "test")["00_00000"]["visible"].all()


def test_side_is_the_default_and_metadata_outlives_the_builder(side):
    again = Itop(data_dir=side.data_dir_root, file_format="array_record")
    assert again.builder_config.name == "side"
    assert again.info.metadata["skeleton"] == "body15"
    assert again.info.metadata["depth_unit"] == "mm"


def test_parts_and_depth_decode_without_tensorflow(side):
    example = side.as_data_source("train")[0]
    assert example["depth"][20, 31, 0] == 1500
    assert example["parts"][68, 164, 0] == 1


def test_the_summary_says_what_differs(source, tmp_path, capsys):
    prepare(source, tmp_path)
    out = capsys.readouterr().out
    assert "WARNING: train frames: 12, expected 39795" in out
    assert "WARNING: train valid frames: 9, expected 17991" in out
    assert "WARNING: test persons: 1, expected 4" in out
    assert "WARNING: train median projection" not in out


def test_the_summary_warns_of_labels_that_metres_do_not_hit(broken, tmp_path, capsys):
    labels = broken / "ITOP_side_test_labels.h5"
    spoil(labels, "image_coordinates", lambda pixels: pixels + np.int16(3))
    prepare(broken, tmp_path)
    out = capsys.readouterr().out
    assert "WARNING: test median projection error, px: 4." in out


def test_packed_files_are_told_to_be_unpacked(broken, tmp_path):
    path = broken / "ITOP_side_test_labels.h5"
    with gzip.open(f"{path}.gz", "wb") as file:
        file.write(path.read_bytes())
    path.unlink()
    match = r"is there as ITOP_side_test_labels.h5.gz: unpack it \(gunzip -k"
    assert_refused(broken, tmp_path, FileNotFoundError, match)


def test_missing_files_are_those_of_the_view(tmp_path):
    (tmp_path / "source").mkdir()
    match = (
        "(?s)lacks ITOP_side_train_depth_map.h5, .*ITOP_side_test_labels.h5."
        ".*It must hold.*datasets/itop/README.md"
    )
    assert_refused(tmp_path / "source", tmp_path, FileNotFoundError, match)


def test_depth_that_is_not_a_number_is_refused_with_its_frame(broken, tmp_path):
    path = broken / "ITOP_side_train_depth_map.h5"
    with h5py.File(path, "r+") as file:
        file["data"][5, 7, 9] = np.nan
    match = "ITOP_side_train_depth_map.h5, frame 5: depth must be 0"
    assert_refused(broken, tmp_path, ValueError, match)


def test_joints_that_are_not_numbers_are_refused_in_valid_frames(broken, tmp_path):
    path = broken / "ITOP_side_train_labels.h5"
    with h5py.File(path, "r+") as file:
        file["real_world_coordinates"][6, 3, 0] = np.nan
    match = "labels.h5, frame 6: is_valid, but its real_world_coordinates"
    assert_refused(broken, tmp_path, ValueError, match)


@pytest.mark.parametrize(
    ("key", "most"), [("real_world_coordinates", 100), ("image_coordinates", 100000)]
)
def test_joints_beyond_what_a_camera_sees_are_refused(broken, tmp_path, key, most):
    def change(values):
        values = values.astype(np.float64)
        values[3], values[6, 3, 0] = 1e300, 1e30  # frame 3 is not valid
        return values

    path = broken / "ITOP_side_train_labels.h5"
    spoil(path, key, change)
    match = f"labels.h5, frame 6: is_valid, but its {key} are not all from -{most} to"
    assert_refused(broken, tmp_path, ValueError, match)


def test_more_frames_than_the_longest_file_has_are_refused(
    broken, tmp_path, monkeypatch
):
    monkeypatch.setattr("datasets.itop.itop.MOST_FRAMES", 11)
    match = r"labels.h5: `id` must have at most 11 frames .*, got \[12\]"
    assert_refused(broken, tmp_path, ValueError, match)


def test_what_unpacks_to_more_than_it_may_is_refused(broken, tmp_path, monkeypatch):
    """A few kilobytes may say that they are gigabytes."""
    monkeypatch.setattr("datasets.itop.itop.MOST_BYTES", 1_500_000)
    prepare(broken, tmp_path / "as it is")
    path = broken / "ITOP_side_train_depth_map.h5"
    with h5py.File(path, "r+") as file:
        depth = file["data"][:]
        del file["data"]
        file.create_dataset("data", data=depth, chunks=depth.shape, compression=9)
    match = r"depth_map.h5: `data` must .* 1500000 bytes to be .*chunks of \[12, 240, 3"
    assert_refused(broken, tmp_path, ValueError, match)


def test_numbers_that_take_more_than_they_may_are_refused(broken, tmp_path):
    path = broken / "ITOP_side_train_labels.h5"
    with h5py.File(path, "r+") as file:
        del file["id"]
        file.create_dataset("id", (12,), "S100000000", chunks=(1,), compression=9)
    match = r"labels.h5: `id` must .* 268435456 bytes to be .*, got \[12\] \|S100000000"
    assert_refused(broken, tmp_path, ValueError, match)


def test_depth_of_integers_is_refused(broken, tmp_path):
    path = broken / "ITOP_side_train_depth_map.h5"
    spoil(path, "data", lambda depth: depth.astype(np.uint16))
    match = r"`data` must be \[12, 240, 320\] of numpy kind f, got .* uint16"
    assert_refused(broken, tmp_path, ValueError, match)


def test_depth_of_another_shape_is_refused(broken, tmp_path):
    spoil(broken / "ITOP_side_train_depth_map.h5", "data", lambda depth: depth[:, ::2])
    match = r"\[12, 240, 320\] .*, got \[12, 120, 320\] float16"
    assert_refused(broken, tmp_path, ValueError, match)


def test_a_file_without_a_key_is_refused(broken, tmp_path):
    with h5py.File(broken / "ITOP_side_test_labels.h5", "r+") as file:
        del file["is_valid"]
    match = "ITOP_side_test_labels.h5: has no `is_valid`, only "
    assert_refused(broken, tmp_path, ValueError, match)


def test_depth_and_labels_of_different_frames_are_refused(broken, tmp_path):
    path = broken / "ITOP_side_train_depth_map.h5"
    spoil(path, "id", lambda names: names[::-1])
    match = "depth_map.h5: its `id` differ from those of labels"
    assert_refused(broken, tmp_path, ValueError, match)


def test_an_id_of_another_form_is_refused(broken, tmp_path):
    path = broken / "ITOP_side_train_labels.h5"
    spoil(path, "id", lambda names: np.char.replace(names, b"05_00001", b"frame"))
    match = "labels.h5, frame 5: id must be PP_FFFFF, got 'frame'"
    assert_refused(broken, tmp_path, ValueError, match)


def test_a_truncated_file_is_refused(broken, tmp_path):
    path = broken / "ITOP_side_train_depth_map.h5"
    path.write_bytes(path.read_bytes()[:5000])
    match = "depth_map.h5: not a whole HDF5 file"
    assert_refused(broken, tmp_path, ValueError, match)


def test_a_single_person_leaves_none_to_train_on(broken, tmp_path):
    path = broken / "ITOP_side_train_labels.h5"
    spoil(path, "is_valid", lambda valid: valid * (np.arange(12) < 4))
    assert_refused(broken, tmp_path, ValueError, "no frames for the train split")


def test_metres_become_rounded_millimetres():
    metres = np.array([[0, 1.5, 3.0004]], np.float32)
    np.testing.assert_array_equal(metres_to_mm(metres, "here"), [[0, 1500, 3000]])


@pytest.mark.parametrize("metres", [np.nan, np.inf, -0.5, 70, 1e30, 1e300])
def test_impossible_metres_are_refused(metres):
    with pytest.raises(ValueError, match="here: depth must be 0"):
        metres_to_mm(np.full((2, 2), metres), "here")


def test_parts_of_another_range_are_refused():
    with pytest.raises(ValueError, match="segmentation must be -1 to 14, got -1 to 15"):
        part_labels(np.array([[-1, 15]], np.int8), "here")
