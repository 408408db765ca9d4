import os
import resource
import struct
import zlib

import numpy as np
import pytest

from cmbjax.depth import images
from datasets import schema


def test_millimetres_by_hand():
    stored = np.array([[0, 1500], [2001, 65535]], np.uint16)
    known = np.where(stored == 65535, 0, stored)  # as many cameras write no reading
    np.testing.assert_array_equal(images.to_millimetres(stored), known)
    # A quarter of a millimetre a unit.
    fine = images.to_millimetres(stored, depth_scale=0.00025)
    np.testing.assert_array_equal(fine, [[0, 375], [500, 0]])
    metres = np.array([[np.nan, 1.5], [np.inf, 2.0006]], np.float32)
    np.testing.assert_array_equal(images.to_millimetres(metres), [[0, 1500], [0, 2001]])
    # 70 m cannot be told in 16 bits, and is no person's distance.
    far = np.array([[1.0, 1.0, 70.0]])
    np.testing.assert_array_equal(images.to_millimetres(far), [[1000, 1000, 0]])
    # 65535 is no reading in wider types either, whatever the unit, nor is a negative.
    wide = np.array([[65535, 65535, 2000, -1]], np.int32)
    np.testing.assert_array_equal(images.to_millimetres(wide), [[0, 0, 2000, 0]])
    half = images.to_millimetres(wide, depth_scale=0.0005)
    np.testing.assert_array_equal(half, [[0, 0, 1000, 0]])
    told = np.array([[65.535, 65.535, 2.0, -0.001, -1.0]])
    np.testing.assert_array_equal(images.to_millimetres(told), [[0, 0, 2000, 0, 0]])
    # One negative value is what stands for no reading, however often.
    cut_out = np.array([[-1, -1, -1, 2000]], np.int16)
    np.testing.assert_array_equal(images.to_millimetres(cut_out), [[0, 0, 0, 2000]])
    np.testing.assert_array_equal(
        images.to_millimetres(np.array([[-1.0, -1.0, 2.0]])), [[0, 0, 2000]]
    )
    masked = np.ma.masked_array([[1500, 2000]], mask=[[True, False]], dtype=np.uint16)
    np.testing.assert_array_equal(images.to_millimetres(masked), [[0, 2000]])
    swapped = images.to_millimetres(np.array([[1500, 2000]], ">u2"))
    np.testing.assert_array_equal(swapped, [[1500, 2000]])
    assert swapped.dtype == np.uint16
    column = metres[..., None]
    np.testing.assert_array_equal(
        images.to_millimetres(column), images.to_millimetres(metres)
    )


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (
            np.full((4, 6), np.nan, np.float32),
            "no reading in it, every pixel is 0, NaN or",
        ),
        (
            np.full((4, 6), np.inf, np.float32),
            "no reading in it, every pixel is 0, NaN",
        ),
        (np.full((4, 6), 65535, np.uint16), "every pixel is 0 or 65535"),
        (np.zeros((4, 6), np.uint16), "no reading in it, every pixel is 0"),
        (np.full((4, 6), 1900.0), "median depth is 1900 m, as floats are metres"),
        (np.full((4, 6), 3, np.uint16), "0.003 m, as a unit is 0.001 m"),
        (np.full((4, 6), -1.0), "no reading in it, every pixel is 0 or -1"),
        (np.array([[-1.0, -2.0, 2.0]]), "negative depth, from -2 m"),
        (np.ones((4, 6), np.uint8), "at least 16 bits a reading, got uint8"),
        (np.ones((4, 6), bool), r"got \[4, 6\] bool"),
        (np.ones((4, 6, 3), np.uint16), r"got \[4, 6, 3\] uint16"),
        (np.ones((0, 6), np.uint16), r"got \[0, 6\] uint16"),
        (np.array([["a", "b"]]), r"got \[1, 2\] <U1"),
    ],
)
def test_what_is_no_depth_image_is_refused(frame, says):
    with pytest.raises(ValueError, match=f"cam_7: .*{says}"):
        images.to_millimetres(frame, name="cam_7")


def test_files_are_read_and_listed_by_name(tmp_path):
    depth = np.arange(12, dtype=np.uint16).reshape(3, 4) + 1000
    (tmp_path / "b.png").write_bytes(schema.encode_png(depth))
    np.save(tmp_path / "a.npy", depth / 1000)
    (tmp_path / "notes.txt").write_text("not a frame")
    files = images.files_of(tmp_path)
    assert [path.name for path in files] == ["a.npy", "b.png"]
    assert images.files_of(files[1]) == [files[1]]
    read = [images.to_millimetres(images.read_frame(path)) for path in files]
    np.testing.assert_array_equal(read[0], depth)
    np.testing.assert_array_equal(read[1], depth)


def test_byte_orders_are_one_for_opencv():
    depth = np.array([[1500, 0]], ">u2")
    checked = images.checked_depth(depth, "depth", metric=True)
    assert checked.dtype == np.dtype("=u2") and checked.tolist() == [[1500, 0]]


def test_bad_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a folder; stream\(\) takes those"):
        images.read_frame(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere: no such file or folder"):
        images.files_of(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no frames in it; expected \.png or \.npy"):
        images.files_of(tmp_path)
    for name in ("x.npy", "x.png"):
        with pytest.raises(FileNotFoundError, match=name):
            images.read_frame(tmp_path / name)
    np.save(tmp_path / "x.npy", np.zeros((50, 50)))
    half = (tmp_path / "x.npy").read_bytes()[:900]
    (tmp_path / "x.npy").write_bytes(half)
    with pytest.raises(ValueError, match=r"x\.npy: not a whole \.npy array"):
        images.read_frame(tmp_path / "x.npy")
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"objects\.npy: not a whole \.npy array"):
        images.read_frame(tmp_path / "objects.npy")
    (tmp_path / "x.bag").write_bytes(b"0")
    with pytest.raises(
        ValueError, match=r"expected a \.png or \.npy file, got '\.bag'"
    ):
        images.read_frame(tmp_path / "x.bag")


def bomb(width, height):
    """A PNG's first block, which says how large it is, without the image."""
    block = b"IHDR" + struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    return (
        images.PNG
        + struct.pack(">I", 13)
        + block
        + struct.pack(">I", zlib.crc32(block))
    )


def test_a_file_that_says_it_is_huge_is_refused_unread(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(bomb(20_000, 20_000))
    with pytest.raises(
        ValueError, match=r"x\.png: 20000 x 20000 is more than 16777216"
    ):
        images.read_frame(path)
    with pytest.raises(ValueError, match="not a whole PNG image"):  # and then is none
        images.read_frame(path, max_pixels=10**9)
    depth = np.full((30, 40), 1000, np.uint16)
    path.write_bytes(schema.encode_png(depth))
    assert images.read_frame(path, max_pixels=1200).shape == (30, 40)
    with pytest.raises(ValueError, match="30 x 40 is more than 1199 pixels"):
        images.read_frame(path, max_pixels=1199)
    array = tmp_path / "x.npy"
    np.lib.format.open_memmap(array, mode="w+", dtype=np.uint8, shape=(5000, 5000))
    with pytest.raises(ValueError, match="5000 x 5000 is more than"):
        images.read_frame(array)


def test_a_file_that_is_huge_itself_is_refused_unread(tmp_path):
    """Of 30 GB, as a file system makes them of a good one by `truncate`: no memory."""
    depth = np.full((30, 40), 1000, np.uint16)
    good = schema.encode_png(depth)
    (tmp_path / "x.png").write_bytes(good)
    np.save(tmp_path / "x.npy", depth)
    npy = (tmp_path / "x.npy").read_bytes()
    version_2 = npy[:6] + b"\2\0" + b"\xff\xff\xff\x7f" + npy[10:]
    np.lib.format.open_memmap(
        tmp_path / "wide.npy", mode="w+", dtype="<U200000000", shape=(4, 6)
    )
    cases = [
        ("x.png", good, r"30000000000 bytes are more than any PNG image of 30 x 40"),
        ("y.png", b"junk" * 9, r"not a whole PNG image \(30000000000 bytes"),
        ("y.npy", version_2, r"not a whole \.npy array \(a header of 2147483647"),
        ("wide.npy", None, r"expected integers or floats in metres, got <U200000000"),
    ]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, content, says in cases:
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
            os.truncate(path, 30 * 10**9)
        with pytest.raises(ValueError, match=f"{name}: {says}"):
            images.read_frame(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16  # KiB
    # With as much beside the image as a camera might write there it is read.
    text = b"tEXt" + b"k\0" + bytes(2**20)
    block = (
        struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    )
    at = good.index(b"IDAT") - 4
    (tmp_path / "x.png").write_bytes(good[:at] + block + good[at:])
    np.testing.assert_array_equal(images.read_frame(tmp_path / "x.png"), depth)


def test_a_block_that_says_it_is_huge_takes_no_memory(tmp_path):
    """OpenCV alone takes as much as the block's length says: here 3.9 GiB."""
    path = tmp_path / "x.png"
    good = schema.encode_png(np.full((30, 40), 1000, np.uint16))
    at = good.index(b"IDAT") - 4
    path.write_bytes(good[:at] + b"\xf9\x00\x00\x00" + good[at + 4 :])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"x\.png: not a whole PNG image"):
        images.read_frame(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16  # KiB


def test_what_is_beside_the_image_of_a_png_is_not_unpacked(tmp_path):
    """Text, profiles, times, whole or damaged, and what follows the last block."""
    depth = np.arange(700, 1900, dtype=np.uint16).reshape(30, 40)
    good = schema.encode_png(depth)
    at = good.index(b"IDAT") - 4
    text = b"zTXt" + b"k\0\0" + b"no stream of zlib"
    block = (
        struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    )
    path = tmp_path / "x.png"
    for content in (good[:at] + block + good[at:], good + b"more"):
        path.write_bytes(content)
        np.testing.assert_array_equal(images.read_frame(path), depth)
    for cut_off in (good[: at + 20], good[: good.index(b"IEND")][:-6]):
        path.write_bytes(cut_off)
        with pytest.raises(ValueError, match="not a whole PNG image"):
            images.read_frame(path)


def test_headers_that_no_image_has_are_refused(tmp_path):
    for width, height in [(0, 5), (5, 0), (2**31 - 1, 1), (1, 2**31 - 1)]:
        (tmp_path / "x.png").write_bytes(bomb(width, height))
        with pytest.raises(ValueError, match=r"x\.png: "):
            images.read_frame(tmp_path / "x.png", max_pixels=2**62)
    np.save(tmp_path / "x.npy", np.ones((20, 20), np.uint16))
    content = (tmp_path / "x.npy").read_bytes()
    for old, new in [
        (b"'<u2'", b"'<u2("),  # a TokenError of Python's
        (b"'<u2'", b"'<zz'"),
        (b"(20, 20)", b"(20,-20)"),
        (b"(20, 20)", b"(2e1,20)"),
        (b"{", b"\xff"),
    ]:
        (tmp_path / "x.npy").write_bytes(content.replace(old, new, 1))
        with pytest.raises(ValueError, match=r"x\.npy: not a whole \.npy array"):
            images.read_frame(tmp_path / "x.npy")


def test_a_listing_has_files_of_any_spelling_and_no_folders(tmp_path):
    (tmp_path / "A.PNG").write_bytes(
        schema.encode_png(np.full((3, 4), 1000, np.uint16))
    )
    (tmp_path / "b.png").mkdir()
    (tmp_path / "c.png").symlink_to(tmp_path / "nowhere")
    names = [path.name for path in images.files_of(tmp_path)]
    assert names == ["A.PNG", "c.png"]  # a broken link is to be reported
    assert images.read_frame(tmp_path / "A.PNG").shape == (3, 4)
    with pytest.raises(FileNotFoundError, match=r"c\.png"):
        images.read_frame(tmp_path / "c.png")


@pytest.mark.parametrize(
    ("largest", "share", "others", "is_reading"),
    [
        (10_000, 0.2, 4_000, False),
        (9_999, 0.01, 7_900, False),
        (10_000, 0.9, 20_000, False),  # a room with a little beside the value
        (10_000, 0.02, 9_990, True),  # a room that deep
        (10_000, 0.0004, 4_000, True),  # one pixel of 2,500 is none
        (5_000, 0.2, 3_000, True),  # a wall
    ],
)
def test_a_far_value_for_no_reading_is_none(largest, share, others, is_reading):
    depth = np.linspace(1_000, others, 2_500).astype(np.uint16).reshape(50, 50)
    depth.ravel()[: round(share * depth.size)] = largest
    expected = np.where((depth == largest) & (not is_reading), 0, depth)
    np.testing.assert_array_equal(images.without_far_value(depth), expected)


def test_two_values_for_no_reading_and_a_pixel_beside_them_are_told_apart():
    depth = np.full((50, 50), 2_000, np.uint16)
    depth[:20], depth[20:30], depth[30, 30] = 9_999, 10_000, 8_500
    expected = np.where(np.isin(depth, (9_999, 10_000)), 0, depth)
    np.testing.assert_array_equal(images.without_far_value(depth), expected)


def test_a_frame_at_one_far_distance_keeps_its_readings():
    wall = np.full((4, 5), 9_000, np.uint16)
    np.testing.assert_array_equal(images.without_far_value(wall), wall)


def test_single_pixels_far_off_are_no_readings():
    depth = np.full((9, 12), 2_000, np.uint16)
    depth[:, 6:] = 2_900  # an edge, less than half as far again
    depth[4:6, 1:4] = 1_000  # two pixels high
    expected = depth.copy()
    for row, column, value in ((1, 1, 300), (2, 9, 5_000), (7, 4, 65_535)):
        depth[row, column] = value
        expected[row, column] = 0
    cleaned = images.without_outliers(depth)
    # The block's corners have a median that lies behind it.
    expected[[4, 4, 5, 5], [1, 3, 1, 3]] = 0
    np.testing.assert_array_equal(cleaned, expected)


def test_a_frame_with_hardly_an_outlier_stays_as_it_is():
    depth = np.full((40, 40), 2_000, np.uint16)
    depth[7, 9] = 300  # one pixel of 1,600
    np.testing.assert_array_equal(images.without_outliers(depth), depth)


def test_where_most_is_missing_nothing_is_left_out():
    depth = np.zeros((6, 6), np.uint16)
    depth[::2, ::2] = 2_000
    np.testing.assert_array_equal(images.without_outliers(depth), depth)
