"""The user's own frames: COCO keypoints in any order, kept by content."""

import functools
import json
import os
import pickle
import shutil
import tracemalloc

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from cmbjax.camera import camera_to_pixels
from cmbjax.skeletons import BODY15, HAND20
from datasets.folder.folder import Folder
from tests import fabricate

REAL = fabricate.real("itop_side_dev")


def prepare(source, data_dir):
    folder = Folder(source_dir=source, data_dir=data_dir, file_format="array_record")
    folder.download_and_prepare()
    return folder


def read(folder, split):
    decoders = {"depth": tfds.decode.SkipDecoding()}
    return list(folder.as_data_source(split, decoders=decoders))


def edit(source, change, name="annotations.json"):
    content = json.loads((source / name).read_text())
    change(content)
    (source / name).write_text(json.dumps(content))


@pytest.fixture
def source(tmp_path):
    fabricate.coco(tmp_path / "frames")
    return tmp_path / "frames"


@pytest.fixture
def example(source, tmp_path):
    return read(prepare(source, tmp_path), "test")[1]


def assert_refused(source, tmp_path, error, match):
    with pytest.raises(error, match=match):
        prepare(source, tmp_path / "tfds")
    assert not list((tmp_path / "tfds").rglob("*array_record*"))
    assert not list((tmp_path / "tfds").rglob("dataset_info.json"))


def test_depth_is_taken_as_it_is(example):
    depth = cv2.imdecode(
        np.frombuffer(example["depth"], np.uint8), cv2.IMREAD_UNCHANGED
    )
    assert (depth.shape, depth.dtype) == ((60, 80), np.uint16)
    assert depth[1, 1:4].tolist() == [2001, 0, 2001]


def test_keypoints_are_pixels_without_a_shift(example):
    np.testing.assert_array_equal(example["joints_px"][7], [17.5, 21.25])
    np.testing.assert_allclose(example["joints_m"][7], [0.7, 0.2, 2], rtol=1e-6)
    np.testing.assert_array_equal(example["camera"], [100, 101, 40, 30])
    assert (example["frame"], example["subject"]) == (b"annotations/001.png", b"")


def test_a_keypoint_with_v_0_is_not_visible_and_has_no_position(example):
    assert np.flatnonzero(~example["visible"]).tolist() == [1]
    assert np.isnan(example["joints_px"][1]).all()


def test_joints_in_any_order_take_the_skeletons_order(tmp_path):
    fabricate.coco(tmp_path / "frames", joints=BODY15.joints[::-1])
    example = read(prepare(tmp_path / "frames", tmp_path), "test")[0]
    # The head is the file's last joint, the left knee (12) its third.
    np.testing.assert_array_equal(example["joints_px"][0], [24.5, 20.25])
    np.testing.assert_allclose(example["joints_m"][12], [0.2, 0.2, 2], rtol=1e-6)
    assert np.flatnonzero(~example["visible"]).tolist() == [13]


def test_metres_and_camera_are_optional_and_the_subject_is_kept(source, tmp_path):
    def change(content):
        del content["info"]
        for annotation in content["annotations"]:
            del annotation["joints_m"]
            annotation["subject"] = "ann"

    edit(source, change)
    example = read(prepare(source, tmp_path), "test")[0]
    assert np.isnan(example["joints_m"]).all()
    assert np.isnan(example["camera"]).all()
    assert example["subject"] == b"ann"


def test_two_persons_in_an_image_are_two_examples(source, tmp_path):
    def change(content):
        second = json.loads(json.dumps(content["annotations"][0]))
        second["keypoints"][0] = 3.5
        content["annotations"].insert(1, second)

    edit(source, change)
    examples = read(prepare(source, tmp_path), "test")
    assert [e["frame"][-7:] for e in examples] == [b"000.png"] * 2 + [
        b"001.png",
        b"002.png",
    ]
    assert [float(e["joints_px"][0, 0]) for e in examples[:2]] == [10.5, 3.5]


def test_one_file_a_split(tmp_path):
    fabricate.coco(tmp_path / "frames", files=("train.json", "validation.json"))
    folder = prepare(tmp_path / "frames", tmp_path)
    assert sorted(folder.info.splits) == ["train", "validation"]
    assert read(folder, "validation")[2]["frame"] == b"validation/002.png"


def test_annotations_beside_split_files_are_refused(tmp_path):
    fabricate.coco(tmp_path / "frames", files=("annotations.json", "test.json"))
    match = "holds annotations.json, which is one test split, beside test.json"
    assert_refused(tmp_path / "frames", tmp_path, ValueError, match)


def test_the_same_content_is_prepared_once(source, tmp_path):
    first = prepare(source, tmp_path)
    again = Folder(source_dir=source, data_dir=tmp_path, file_format="array_record")
    assert again.is_prepared()
    assert again.data_dir == first.data_dir
    assert again.builder_config.name.startswith("frames_")
    assert again.info.metadata["skeleton"] == "body15"
    assert again.info.metadata["depth_unit"] == "mm"


def test_edited_labels_are_prepared_anew(source, tmp_path):
    prepare(source, tmp_path)

    def change(content):
        content["annotations"][0]["keypoints"][0] = 33.5

    edit(source, change)
    assert read(prepare(source, tmp_path), "test")[0]["joints_px"][0, 0] == 33.5


def test_an_edited_image_is_prepared_anew(source, tmp_path):
    prepare(source, tmp_path)
    image = np.full((60, 80), 777, np.uint16)
    fabricate.write_png(source / "annotations/000.png", image)
    depth = read(prepare(source, tmp_path), "test")[0]["depth"]
    decoded = cv2.imdecode(np.frombuffer(depth, np.uint8), cv2.IMREAD_UNCHANGED)
    assert decoded[0, 0] == 777


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        (b"a" * 250, "a" * 200),
        ("骨".encode() * 85, "骨" * 66),  # three bytes each
        (b"frames_\xff\xfe", "frames__"),  # no UTF-8
    ],
)
def test_a_folder_may_have_any_name(tmp_path, name, kept):
    folder = tmp_path / os.fsdecode(name)
    fabricate.coco(folder)
    prepared = prepare(folder, tmp_path / "tfds")
    assert len(read(prepared, "test")) == 3
    assert prepared.builder_config.name[:-13] == kept


def test_raw_depth_is_said_in_the_file(source, tmp_path):
    edit(source, lambda content: content["info"].update(depth_unit="raw"))
    folder = prepare(source, tmp_path)
    assert folder.info.metadata["depth_unit"] == "raw"


def test_a_pickled_builder_is_the_same_data_set(source, tmp_path):
    folder = prepare(source, tmp_path)
    assert pickle.loads(pickle.dumps(folder)).data_dir == folder.data_dir


def test_a_file_of_annotations_is_in_memory_once(source, tmp_path):
    """A million of them are the better part of a gigabyte."""
    edit(source, lambda content: content["info"].update(note=50_000_000 * "x"))
    tracemalloc.start()
    try:
        Folder(source_dir=source, data_dir=tmp_path)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 50_000_000 < most < 60_000_000


def test_the_summary_tells_what_is_there(source, tmp_path, capsys):
    edit(source, lambda content: content["annotations"].pop())
    prepare(source, tmp_path)
    out = capsys.readouterr().out
    assert "  test examples: 2\n" in out
    assert "WARNING: test images without annotation: 1, expected 0" in out
    assert "  test joints that are not visible, %: 6.66667\n" in out  # 1 of 15


def test_no_source_is_said(tmp_path):
    with pytest.raises(ValueError, match="source_dir: name the folder"):
        Folder(data_dir=tmp_path)


def test_an_absent_folder_is_refused(tmp_path):
    match = "absent is not a folder; expected annotations.json, or any of train.json"
    assert_refused(tmp_path / "absent", tmp_path, FileNotFoundError, match)


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    match = "empty holds no annotation file; .*datasets/folder/README.md"
    assert_refused(tmp_path / "empty", tmp_path, FileNotFoundError, match)


def test_an_annotation_for_a_missing_file_is_refused(source, tmp_path):
    (source / "annotations/001.png").unlink()
    match = "annotations.json: annotates annotations/001.png, but there is no"
    assert_refused(source, tmp_path, FileNotFoundError, match)


def test_a_truncated_image_is_refused(source, tmp_path):
    path = source / "annotations/002.png"
    path.write_bytes(path.read_bytes()[:-20])
    assert_refused(source, tmp_path, ValueError, "002.png: not a whole PNG image")


def test_an_empty_image_is_refused(source, tmp_path):
    (source / "annotations/002.png").write_bytes(b"")
    assert_refused(source, tmp_path, ValueError, r"not a whole PNG image \(0 bytes\)")


def test_an_8_bit_image_is_refused(source, tmp_path):
    image = np.zeros((60, 80), np.uint8)
    fabricate.write_png(source / "annotations/002.png", image)
    match = "002.png: expected 16 bits a channel, got 8"
    assert_refused(source, tmp_path, ValueError, match)


def test_an_image_of_another_size_than_said_is_refused(source, tmp_path):
    image = np.zeros((80, 60), np.uint16)
    fabricate.write_png(source / "annotations/002.png", image)
    match = "002.png: 60x80 pixels, but annotations.json says 80x60"
    assert_refused(source, tmp_path, ValueError, match)


def refused_after(change, match, source, tmp_path):
    edit(source, change)
    assert_refused(source, tmp_path, ValueError, match)


def test_an_unknown_joint_name_is_refused_with_the_known_ones(source, tmp_path):
    def change(content):
        content["categories"][0]["keypoints"][0] = "nose"

    match = "(?s)annotations.json: unknown joint 'nose'.*body15: head, neck, right_sho"
    refused_after(change, match, source, tmp_path)


def test_a_part_of_a_skeleton_is_refused(source, tmp_path):
    def change(content):
        content["categories"][0]["keypoints"].pop()

    match = "annotations.json: 14 joints that are no whole skeleton: head, neck"
    refused_after(change, match, source, tmp_path)


def test_keypoints_of_wrong_length_are_refused(source, tmp_path):
    match = r"annotations\[1\]: `keypoints` must be 15 x 3 numbers, got 44 values"
    refused_after(
        lambda content: content["annotations"][1]["keypoints"].pop(),
        match,
        source,
        tmp_path,
    )


def test_ragged_metres_are_refused(source, tmp_path):
    refused_after(
        lambda content: content["annotations"][2]["joints_m"][3].pop(),
        r"annotations\[2\]: `joints_m` must be 15 x 3 numbers",
        source,
        tmp_path,
    )


def test_a_visible_keypoint_without_position_is_refused(source, tmp_path):
    def change(unknown, content):
        content["annotations"][0]["keypoints"][0] = unknown

    match = r"annotations\[0\]: a keypoint with v > 0 has no finite position"
    for unknown in (None, 1e39):  # beyond float32
        refused_after(functools.partial(change, unknown), match, source, tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda c: c["annotations"][1]["keypoints"].__setitem__(6, 1e30),
            r"annotations\[1\]: keypoints must be from -100000 to 100000, got 1e\+30",
        ),
        (
            lambda c: c["annotations"][2]["joints_m"][4].__setitem__(2, 1e30),
            r"annotations\[2\]: joints_m must be from -100 to 100, got 1e\+30",
        ),
        (
            lambda c: c["annotations"][2]["joints_m"][4].__setitem__(2, 1e39),
            r"annotations\[2\]: joints_m must be from -100 to 100, got inf",
        ),
        (
            lambda c: c["info"]["camera"].update(fx=1e30),
            r"Expected `float` < 1000000.0 - at `\$.info.camera.fx`",
        ),
        (
            lambda c: c["info"]["camera"].update(fy=1e-44),
            r"Expected `float` > 1.0 - at `\$.info.camera.fy`",
        ),
        (
            lambda c: c["info"]["camera"].update(cx=-1e30),
            r"Expected `float` >= -100000.0 - at `\$.info.camera.cx`",
        ),
    ],
)
def test_numbers_beyond_what_a_camera_sees_are_refused(change, says, source, tmp_path):
    refused_after(change, f"annotations.json.*{says}", source, tmp_path)


def test_a_hidden_keypoint_may_hold_any_number(source, tmp_path):
    def change(content):
        content["annotations"][0]["keypoints"][3] = 1e30

    edit(source, change)
    assert np.isnan(read(prepare(source, tmp_path), "test")[0]["joints_px"][1]).all()


def test_metres_that_are_null_are_not_known(source, tmp_path):
    def change(content):
        content["annotations"][0]["joints_m"][2] = [0.1, None, 2.0]

    edit(source, change)
    joints_m = read(prepare(source, tmp_path), "test")[0]["joints_m"]
    assert np.isnan(joints_m[2]).tolist() == [False, True, False]
    assert np.isfinite(np.delete(joints_m, 2, axis=0)).all()


@pytest.mark.parametrize("value", ["NaN", "Infinity"])
def test_numbers_that_json_does_not_have_are_refused(source, tmp_path, value):
    path = source / "annotations.json"
    path.write_text(path.read_text().replace("10.5", value, 1))
    assert value in path.read_text()
    assert_refused(source, tmp_path, ValueError, "annotations.json is not valid JSON")


def test_two_images_with_one_id_are_refused(source, tmp_path):
    """One would get the other's labels."""

    def change(content):
        content["images"][2]["id"] = content["images"][0]["id"]

    match = r"images\[2\] has the id .* of an earlier one, annotations/000.png"
    refused_after(change, match, source, tmp_path)


def test_crowds_are_no_examples(source, tmp_path):
    def change(content):
        content["annotations"][1] |= {"iscrowd": 1, "keypoints": "counts"}

    edit(source, change)
    examples = read(prepare(source, tmp_path), "test")
    assert [e["frame"][-7:] for e in examples] == [b"000.png", b"002.png"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda c: c["annotations"][1].update(keypoints=None),
            r"annotations\[1\]: Expected `array`, got `null` - at `\$.keypoints`",
        ),
        (
            lambda c: c["annotations"][1].update(joints_m={"head": 1}),
            r"annotations\[1\]: Expected `array .* null`, got `object` - .*joints_m",
        ),
        (
            lambda c: c["annotations"].__setitem__(1, 7),
            r"annotations\[1\]: Expected `object`, got `int`",
        ),
        (
            lambda c: c["images"][1].update(width="wide"),
            r"got `str` - at `\$.images\[1\].width`",
        ),
        (
            lambda c: c["images"][1].update(id=[1]),
            r"got `array` - at `\$.images\[1\].id`",
        ),
        (
            lambda c: c["images"][1].pop("height"),
            r"001.png has one of width and height",
        ),
    ],
)
def test_other_types_are_refused_with_their_place(change, says, source, tmp_path):
    refused_after(change, f"annotations.json.*{says}", source, tmp_path)


def test_an_annotation_of_no_image_is_refused(source, tmp_path):
    def change(content):
        content["annotations"][0]["image_id"] = 99

    match = r"annotations\[0\]: image_id 99 is not in `images`"
    refused_after(change, match, source, tmp_path)


def test_no_annotations_are_refused(source, tmp_path):
    refused_after(
        lambda content: content["annotations"].clear(),
        r"annotations.json: Expected `array` of length >= 1 - at `\$.annotations`",
        source,
        tmp_path,
    )


def test_a_file_without_categories_is_refused(source, tmp_path):
    refused_after(
        lambda content: content.pop("categories"),
        "annotations.json: Object missing required field `categories`",
        source,
        tmp_path,
    )


def test_two_categories_are_refused(source, tmp_path):
    refused_after(
        lambda content: content["categories"].append({"id": 2}),
        r"annotations.json: Expected `array` of length <= 1 - at `\$.categories`",
        source,
        tmp_path,
    )


def test_half_a_camera_is_refused(source, tmp_path):
    refused_after(
        lambda content: content["info"]["camera"].pop("cy"),
        r"annotations.json: Object missing .* field `cy` - at `\$.info.camera`",
        source,
        tmp_path,
    )


def test_an_unknown_depth_unit_is_refused(source, tmp_path):
    refused_after(
        lambda content: content["info"].update(depth_unit="m"),
        r"annotations.json: Invalid enum value 'm' - at `\$.info.depth_unit`",
        source,
        tmp_path,
    )


def test_an_image_without_a_name_is_refused(source, tmp_path):
    refused_after(
        lambda content: content["images"][1].pop("file_name"),
        r"Object missing required field `file_name` - at `\$.images",
        source,
        tmp_path,
    )


def test_a_broken_annotation_file_is_refused(source, tmp_path):
    (source / "annotations.json").write_text('{"images": [')
    match = "annotations.json is not valid JSON"
    assert_refused(source, tmp_path, ValueError, match)


def test_splits_of_different_skeletons_are_refused(tmp_path):
    fabricate.coco(tmp_path / "frames", files=("train.json",))
    fabricate.coco(tmp_path / "other", files=("test.json",), joints=HAND20.joints)
    shutil.copytree(tmp_path / "other", tmp_path / "frames", dirs_exist_ok=True)
    match = "differ in joints or depth_unit: train.json has body15, mm; test.json has h"
    assert_refused(tmp_path / "frames", tmp_path, ValueError, match)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real frames are not at hand")
def test_real_frames_show_the_labels_on_the_body(tmp_path):
    examples = read(prepare(REAL, tmp_path), "test")
    assert len(examples) == 64
    behind_mm = []
    for example in examples:
        projected = camera_to_pixels(example["joints_m"], example["camera"])
        np.testing.assert_allclose(projected, example["joints_px"], atol=0.02)
        png = np.frombuffer(example["depth"], np.uint8)
        depth = cv2.imdecode(png, cv2.IMREAD_UNCHANGED)
        column, row = example["joints_px"][BODY15.joints.index("torso")].astype(int)
        torso_mm = 1000 * example["joints_m"][BODY15.joints.index("torso"), 2]
        behind_mm.append(torso_mm - depth[row, column])
    assert 50 < np.median(behind_mm) < 130  # behind the chest, not on the wall
