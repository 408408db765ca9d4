"""K2HPD in its true format, from files to examples and back."""

import functools
import shutil
import sys

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

import datasets
from datasets import builder
from datasets.k2hpd.k2hpd import K2hpd, parse_label
from tests import fabricate

LABEL = b"00000003.png " + b",".join(b"%d" % n for n in range(117, 155))


def prepare(source, data_dir):
    k2hpd = K2hpd(data_dir=data_dir, file_format="array_record")
    config = tfds.download.DownloadConfig(manual_dir=source)
    k2hpd.download_and_prepare(download_config=config)
    return k2hpd


def read(k2hpd, split):
    source = k2hpd.as_data_source(split, decoders={"depth": tfds.decode.SkipDecoding()})
    return {example["frame"].decode(): example for example in source}


def decode(png):
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("k2hpd")
    fabricate.k2hpd(folder)
    return folder


@pytest.fixture(scope="module")
def k2hpd(source, tmp_path_factory):
    return prepare(source, tmp_path_factory.mktemp("tfds"))


@pytest.fixture
def broken(source, tmp_path):
    return shutil.copytree(source, tmp_path / "source")


def assert_refused(source, tmp_path, error, match):
    with pytest.raises(error, match=match):
        prepare(source, tmp_path / "tfds")
    again = K2hpd(data_dir=tmp_path / "tfds", file_format="array_record")
    assert not again.is_prepared()
    assert not list((tmp_path / "tfds").rglob("*array_record*"))


def test_depth_is_the_first_channel_unchanged_in_16_bits(k2hpd):
    depth = decode(read(k2hpd, "train")["00000005.png"]["depth"])
    assert (depth.shape, depth.dtype) == ((212, 256), np.uint16)
    assert depth[0, 0] == 102
    assert depth[42, 122] == 50  # the head's label is (122, 42)


def test_a_label_is_the_centre_of_its_pixel(k2hpd):
    joints = read(k2hpd, "train")["00000005.png"]["joints_px"]
    np.testing.assert_array_equal(joints[0], [122.5, 42.5])
    np.testing.assert_array_equal(joints[18], [163.5, 102.5])


def test_a_line_behind_nul_bytes_is_read(k2hpd):
    joints = read(k2hpd, "train")["00000004.png"]["joints_px"]
    np.testing.assert_array_equal(joints[14], [137.5, 181.5])


def test_joints_outside_the_image_count(k2hpd):
    example = read(k2hpd, "train")["00000003.png"]
    np.testing.assert_array_equal(example["joints_px"][[5, 8], 0], [-2.5, 262.5])
    assert example["visible"].all()


def test_there_is_no_camera_and_no_third_dimension(k2hpd):
    example = read(k2hpd, "test")["00000023.png"]
    assert np.isnan(example["camera"]).all()
    assert np.isnan(example["joints_m"]).all()


def test_the_fifth_and_fifteenth_block_are_for_validation(k2hpd):
    assert sorted(read(k2hpd, "validation")) == ["00000007.png", "00000017.png"]
    assert len(read(k2hpd, "train")) == 18
    expected = [f"{n:08d}.png" for n in (23, 24, 25, 26)]
    assert sorted(read(k2hpd, "test")) == expected


def test_blocks_are_contiguous_and_a_tenth_of_the_frames():
    validation = np.flatnonzero(builder.held_out_blocks(100))
    np.testing.assert_array_equal(validation, [*range(20, 25), *range(70, 75)])


def test_metadata_outlives_the_builder(k2hpd):
    again = K2hpd(data_dir=k2hpd.data_dir_root, file_format="array_record")
    assert again.is_prepared()
    assert again.info.metadata["skeleton"] == "body19"
    assert again.info.metadata["depth_unit"] == "raw"


def test_tensorflow_is_never_imported(k2hpd):
    read(k2hpd, "test")
    assert "tensorflow" not in sys.modules


def test_several_shards_hold_each_frame_once(source, tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "SHARD_FRAMES", 7)
    small = prepare(source, tmp_path)
    assert small.info.splits["train"].shard_lengths == [7, 7, 4]
    assert len(read(small, "train")) == 18


def test_the_summary_warns_of_a_subset(source, tmp_path, capsys):
    prepare(source, tmp_path)
    out = capsys.readouterr().out
    assert "WARNING: train frames: 20, expected 55943" in out
    # The neck lies 55 px above the middle of the hips.
    assert "WARNING: test median torso, px: 55, expected 44.68" in out
    # Two of 20 x 19 training labels.
    assert "  train joints outside the image, %: 0.526316\n" in out


def test_a_missing_source_folder_lists_what_belongs_there(tmp_path):
    match = (
        r"(?s)absent does not exist.*depth_data/depth_images.*train_annos.txt"
        r".*test_annos.txt.*Get the files.*datasets/k2hpd/README.md"
    )
    assert_refused(tmp_path / "absent", tmp_path, FileNotFoundError, match)


def test_no_source_folder_is_said(tmp_path):
    k2hpd = K2hpd(data_dir=tmp_path, file_format="array_record")
    with pytest.raises(FileNotFoundError, match="name it with --data_dir"):
        k2hpd.download_and_prepare()


def test_a_missing_label_file_is_named(broken, tmp_path):
    (broken / "test_annos.txt").unlink()
    assert_refused(broken, tmp_path, FileNotFoundError, "lacks test_annos.txt")


def test_an_empty_image_folder_is_refused(broken, tmp_path):
    shutil.rmtree(broken / "depth_data/depth_images")
    (broken / "depth_data/depth_images").mkdir()
    assert_refused(broken, tmp_path, FileNotFoundError, "the folder is empty")


def test_a_label_without_its_image_is_refused(broken, tmp_path):
    (broken / "depth_data/depth_images/00000024.png").unlink()
    match = "test_annos.txt, line 2: no image .*00000024.png"
    assert_refused(broken, tmp_path, FileNotFoundError, match)


def test_a_malformed_line_is_refused_with_its_number(broken, tmp_path):
    lines = (broken / "train_annos.txt").read_bytes().splitlines(keepends=True)
    lines[6] = lines[6].replace(b",", b" ", 1)
    (broken / "train_annos.txt").write_bytes(b"".join(lines))
    match = "train_annos.txt, line 7: expected .*38 comma-separated integers"
    assert_refused(broken, tmp_path, ValueError, match)


def test_a_label_file_without_lines_is_refused(broken, tmp_path):
    (broken / "test_annos.txt").write_bytes(b"\x00\n")
    assert_refused(broken, tmp_path, ValueError, "holds no label lines")


def test_a_truncated_image_is_refused(broken, tmp_path):
    path = broken / "depth_data/depth_images/00000010.png"
    path.write_bytes(path.read_bytes()[:200])
    match = "00000010.png: not a whole PNG image .200 bytes"
    assert_refused(broken, tmp_path, ValueError, match)


def test_a_16_bit_image_is_refused(broken, tmp_path):
    image = np.zeros((212, 256), np.uint16)
    fabricate.write_png(broken / "depth_data/depth_images/00000010.png", image)
    assert_refused(broken, tmp_path, ValueError, "expected 8 bits a channel, got 16")


def test_an_image_of_another_size_is_refused(broken, tmp_path):
    image = np.zeros((424, 512), np.uint8)
    fabricate.write_png(broken / "depth_data/depth_images/00000010.png", image)
    assert_refused(broken, tmp_path, ValueError, "expected 256x212 pixels, got 512x424")


def test_a_colour_image_is_refused(broken, tmp_path):
    image = np.zeros((212, 256, 3), np.uint8)
    image[5, 6, 1] = 1
    fabricate.write_png(broken / "depth_data/depth_images/00000010.png", image)
    assert_refused(broken, tmp_path, ValueError, "00000010.png: a colour image")


@pytest.mark.parametrize(
    "line",
    [
        LABEL + b",1",
        LABEL[:-4],
        LABEL.replace(b"117", b"x"),
        LABEL.replace(b"117", b"117.5"),
        LABEL.split()[0],
        b"\xff" + LABEL,
    ],
)
def test_a_line_of_another_form_is_refused(line):
    with pytest.raises(ValueError, match="here: expected `NNNNNNNN.png`"):
        parse_label(line, "here")


@pytest.mark.parametrize("number", ["9" * 30, "-100001", "9" * 38])
def test_a_joint_far_from_every_image_is_refused(number):
    line = LABEL.replace(b"117", number.encode())
    with pytest.raises(ValueError, match="here: joints must be from -100000 to 100000"):
        parse_label(line, "here")


def test_a_label_file_longer_than_any_is_refused(broken, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.k2hpd.k2hpd.MOST_BYTES", 900)
    match = "train_annos.txt: expected at most 900 bytes, got more"
    assert_refused(broken, tmp_path, ValueError, match)


def test_test_frames_alone_are_prepared(broken, tmp_path):
    (broken / "train_annos.txt").unlink()
    k2hpd = prepare(broken, tmp_path / "tfds")
    assert list(k2hpd.info.splits) == ["test"]
    assert len(read(k2hpd, "test")) > 0
    load = functools.partial(datasets.load, "k2hpd", broken, tmp_path / "tfds")
    assert len(load(split="test")) > 0
    with pytest.raises(ValueError, match="k2hpd has no train split; it has: test"):
        load(split="train")


def test_joints_that_a_line_lacks_do_not_count(broken, tmp_path):
    path = broken / "test_annos.txt"
    first, *others = path.read_bytes().strip(b"\x00\n").split(b"\n")
    name, numbers = first.split()
    short = name + b" " + b",".join(numbers.split(b",")[:30])
    path.write_bytes(b"\n".join([short, *others]))
    examples = read(prepare(broken, tmp_path / "tfds"), "test")
    example = examples[name.decode()]
    assert example["visible"].tolist() == [True] * 15 + [False] * 4
    _, whole = parse_label(first, "here")
    np.testing.assert_array_equal(example["joints_px"][:15], whole[:15])
    assert np.isnan(example["joints_px"][15:]).all()
