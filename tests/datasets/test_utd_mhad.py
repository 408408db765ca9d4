"""UTD-MHAD's builder, on made-up files of its form, and on the real ones if there."""

import zlib

import numpy as np
import pytest
import scipy.io

import datasets
from cmbjax.camera import camera_to_pixels
from cmbjax.data.examples import decode_depth
from cmbjax.data.recordings import recordings
from cmbjax.skeletons import BODY20
from datasets.utd_mhad import utd_mhad
from tests import fabricate

REAL = fabricate.real("utd_mhad")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("utd")
    fabricate.utd_mhad(folder / "source")
    return folder


def load(folder, split):
    return datasets.load("utd_mhad", folder / "source", folder / "tfds", split=split)


def test_picture_and_joints_are_mirrored_back(prepared):
    """Index i of the mirrored picture is pixel 319 - i, whose centre is 319.5 - i."""
    frames = load(prepared, "test")
    assert frames.skeleton is BODY20 and frames.metric
    example = frames.source[1]
    left, right = (BODY20.joints.index(f"{side}_hand") for side in ("left", "right"))
    # The second frame is depth frame 3, of subject 2.
    expected = [[319.5 - 53, 102.5], [319.5 - 253, 102.5]]
    np.testing.assert_allclose(example["joints_px"][[left, right]], expected, atol=0.01)
    np.testing.assert_allclose(example["joints_m"][[left, right], 2], [1, 2])
    depth = decode_depth(example)
    for (x, y), z in zip(expected, (1000, 2000), strict=True):
        assert (depth[int(y) - 3 : int(y) + 4, int(x) - 3 : int(x) + 4] == z).all()
    assert np.count_nonzero(depth) == 2 * 49
    assert example["joints_m"][1, 1] == pytest.approx(-0.1)  # y points down
    np.testing.assert_allclose(
        camera_to_pixels(example["joints_m"], example["camera"]),
        example["joints_px"],
        atol=0.01,
    )


def test_subjects_are_split_and_recordings_are_in_order(prepared, capsys):
    names = {
        split: [example["frame"].decode() for example in load(prepared, split).source]
        for split in ("train", "validation", "test")
    }
    assert {k: {n[:2] for n in v} for k, v in names.items()} == {
        "train": {"s1"},
        "validation": {"s3"},
        "test": {"s2"},
    }
    expected = [f"s1_a{action}_t1_{n:03d}" for action in ("01", "12") for n in range(4)]
    assert names["train"] == expected  # six depth frames, two of them too early
    units = recordings(load(prepared, "train").source)
    assert units == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_what_is_absent_is_said(tmp_path, capsys):
    fabricate.utd_mhad(tmp_path / "source")
    load(tmp_path, "test")
    said = capsys.readouterr().out
    assert "WARNING: recordings: 6, expected 861" in said
    assert "no recording of the subjects 4, 5, 6, 7, 8" in said


def test_other_files_are_refused(tmp_path):
    source = tmp_path / "source"
    fabricate.utd_mhad(source, subjects=(1, 2))
    with pytest.raises(ValueError, match=r"two of the subjects 1, 3, 5, 7, got .* 1$"):
        load(tmp_path, "test")
    fabricate.utd_mhad(source)
    skeleton = source / "Skeleton/a1_s1_t1_skeleton.mat"
    content = skeleton.read_bytes()
    skeleton.unlink()
    with pytest.raises(FileNotFoundError, match="its skeleton .* is missing"):
        load(tmp_path, "test")
    skeleton.write_bytes(content[:300])
    with pytest.raises(ValueError, match=r"a1_s1_t1_skeleton\.mat: not a whole MATLAB"):
        load(tmp_path, "test")
    skeleton.write_bytes((source / "Depth/a1_s1_t1_depth.mat").read_bytes())
    with pytest.raises(ValueError, match=r"expected an array d_skel .*, got d_depth"):
        load(tmp_path, "test")
    assert not list(tmp_path.rglob("dataset_info.json"))


@pytest.mark.parametrize(
    ("axis", "value", "says"),
    [
        (0, 1e30, r"d_skel must be from -100 to 100, got 1e\+30"),
        (2, 0.0, r"d_skel must have z of at least 0.4 m, got 0$"),
        (2, -3.0, r"d_skel must have z of at least 0.4 m, got -3$"),
    ],
)
def test_joints_beyond_what_a_camera_sees_are_refused(tmp_path, axis, value, says):
    source = tmp_path / "source"
    fabricate.utd_mhad(source)
    path = source / "Skeleton/a1_s1_t1_skeleton.mat"
    joints = scipy.io.loadmat(path)["d_skel"]
    joints[5, axis, 3] = value
    scipy.io.savemat(path, {"d_skel": joints})
    with pytest.raises(ValueError, match=rf"a1_s1_t1_skeleton\.mat: {says}"):
        load(tmp_path, "train")


@pytest.mark.parametrize("compress", [True, False])
def test_an_array_that_takes_more_than_it_may_is_refused(
    tmp_path, monkeypatch, compress
):
    monkeypatch.setattr(utd_mhad, "MOST_BYTES", 1_000_000)
    path = tmp_path / "x.mat"
    for frames, much in ((12, False), (14, True)):
        values = np.zeros((240, 320, frames), np.uint8)
        scipy.io.savemat(path, {"d_depth": values}, do_compression=compress)
        if not much:
            read = utd_mhad.read_matrix(path, "d_depth", (240, 320))
            np.testing.assert_array_equal(read, values)
            continue
        with pytest.raises(ValueError, match="x.mat: expected at most 1000000 bytes"):
            utd_mhad.read_matrix(path, "d_depth", (240, 320))


def test_an_array_larger_than_it_says_is_refused(tmp_path, monkeypatch):
    """SciPy makes room for as many numbers as are packed, whatever the shape."""
    monkeypatch.setattr(utd_mhad, "MOST_BYTES", 1_000_000)
    path = tmp_path / "x.mat"
    scipy.io.savemat(path, {"d_depth": np.zeros((240, 320, 1), np.uint8)})
    content = bytearray(path.read_bytes())
    size = content.index((240 * 320).to_bytes(4, "little"))
    content[size : size + 4] = (2**27).to_bytes(4, "little")
    packed = zlib.compress(bytes(content[128:]) + bytes(2**24))
    tag = (15).to_bytes(4, "little") + len(packed).to_bytes(4, "little")
    path.write_bytes(bytes(content[:128]) + tag + packed)
    with pytest.raises(ValueError, match="x.mat: expected at most 1000000 bytes, unpa"):
        utd_mhad.read_matrix(path, "d_depth", (240, 320))


def test_more_frames_than_a_recording_has_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(utd_mhad, "MOST_FRAMES", 5)
    fabricate.utd_mhad(tmp_path / "source")
    with pytest.raises(ValueError, match="d_depth must have at most 5 frames, got 6"):
        load(tmp_path, "train")
    path = tmp_path / "source/Depth/a1_s1_t1_depth.mat"
    with pytest.raises(ValueError, match=r"at most 5 frames, got \[240, 320, 6\]"):
        utd_mhad.read_matrix(path, "d_depth", (240, 320))


def test_a_matlab_file_of_another_version_is_refused(tmp_path):
    scipy.io.savemat(tmp_path / "x.mat", {"d_depth": np.zeros((240, 320))}, format="4")
    with pytest.raises(ValueError, match="x.mat: not a whole MATLAB file of version 5"):
        utd_mhad.read_matrix(tmp_path / "x.mat", "d_depth", (240, 320))


@pytest.mark.skipif(not REAL.is_dir(), reason="the real recordings are not at hand")
def test_hands_of_a_real_recording_lie_on_the_body():
    (recording,) = (r for r in utd_mhad.find_recordings(REAL) if r.name == "s2_a01_t1")
    depth_mm, joints_m = utd_mhad.read_recording(recording)
    assert len(depth_mm) == len(joints_m) == utd_mhad.num_frames(recording)
    hands = [BODY20.joints.index(f"{side}_hand") for side in ("left", "right")]
    pixels = camera_to_pixels(joints_m, utd_mhad.CAMERA)[:, hands].astype(int)
    is_there = [
        depth_mm[t, y, x] > 0 for t in range(len(depth_mm)) for x, y in pixels[t]
    ]
    assert np.mean(is_there) > 0.6
    # Who faces the camera has the left hand at the picture's right.
    left, right = (
        BODY20.joints.index(f"{side}_shoulder") for side in ("left", "right")
    )
    assert np.median(joints_m[:, left, 0] - joints_m[:, right, 0]) > 0.2
