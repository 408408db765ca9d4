"""What is prepared is what is read, or one error says what to delete."""

import errno
import functools
import json
import re
import resource
import shutil

import numpy as np
import pytest

import datasets
from datasets import copies
from tests import fabricate


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three frames of a folder, prepared once."""
    folder = tmp_path_factory.mktemp("made")
    fabricate.coco(folder / "frames")
    open_copy(folder)
    return folder


@pytest.fixture
def there(made, tmp_path):
    return shutil.copytree(made, tmp_path / "there")


def open_copy(folder):
    return datasets.prepared("folder", folder / "frames", folder / "tfds")


def read(folder):
    source = open_copy(folder).examples_of("test")
    return [source[i] for i in range(len(source))]


def copy_in(folder):
    (path,) = (folder / "tfds").rglob("dataset_info.json")
    return path.parent


def replaced(name, old, new, folder):
    path = folder / name
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))


def cut(name, folder):
    path = folder / name
    path.write_bytes(path.read_bytes()[:100])


def missing(name, folder):
    (folder / name).unlink()


INFO, META = "dataset_info.json", "metadata.json"
SHARD = "folder-test.array_record-00000-of-00001"
change = functools.partial
SMALL = {
    "a bit of the unit": change(replaced, META, b"mm", b"lm"),
    "another skeleton": change(replaced, META, b"body15", b"body19"),
    "no skeleton": change(replaced, META, b"skeleton", b"skeletom"),
    "no object": change(replaced, META, b"{", b"["),
    "not UTF-8": change(replaced, META, b"mm", b"\xff\xfe"),
    "more frames than there are": change(replaced, INFO, b'"3"', b'"7"'),
    "another version": change(replaced, INFO, b'"1.0.0"', b'"1.0.1"'),
    "the start of an info": change(cut, INFO),
    "an info that is not UTF-8": change(replaced, INFO, b"folder", b"\xfflder"),
    "no info": change(missing, INFO),
}


def test_a_copy_is_sealed_with_its_files_and_shards(made):
    folder = copy_in(made)
    seal = json.loads((folder / copies.SEAL_FILE).read_text())
    assert sorted(seal["files"]) == [INFO, "features.json", META]
    assert seal["files"][META] == copies.checksum(folder / META)
    assert seal["shards"] == {SHARD: (folder / SHARD).stat().st_size}


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "of before"])
@pytest.mark.parametrize("damage", SMALL.values(), ids=SMALL)
def test_a_damaged_copy_is_refused_and_says_what_to_do(there, damage, sealed):
    folder = copy_in(there)
    if not sealed:
        (folder / copies.SEAL_FILE).unlink()
    damage(folder)
    says = rf"{re.escape(str(folder))}: damaged .*delete it, and it is prepared again"
    with pytest.raises(ValueError, match=f"(?s){says}"):
        read(there)
    shutil.rmtree(folder)
    assert [float(x["joints_px"][0, 1]) for x in read(there)] == [20.25, 21.25, 22.25]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (change(cut, SHARD), f"{SHARD} has .* bytes, expected "),
        (change(missing, SHARD), f"No such file or directory: .*{SHARD}"),
        (change(cut, copies.SEAL_FILE), "DecodeError: "),
        (change(replaced, "features.json", b"3", b"4"), "features.json is not as it"),
        (change(replaced, META, b"mm", b"lm"), "metadata.json is not as it was writ"),
        (change(missing, META), "No such file or directory: .*metadata.json"),
    ],
)
def test_what_is_damaged_is_named_when_the_copy_is_opened(there, damage, says):
    damage(copy_in(there))
    with pytest.raises(ValueError, match=rf"damaged \(.*{says}"):
        open_copy(there)


def test_a_flipped_bit_of_a_shard_is_found_when_its_frame_is_read(there):
    folder = copy_in(there)
    content = bytearray((folder / SHARD).read_bytes())
    at = content.index(b"annotations/001.png")
    content[at] ^= 1
    (folder / SHARD).write_bytes(content)
    source = open_copy(there).examples_of("test")
    assert source[0]["frame"] == b"annotations/000.png"
    with pytest.raises(ValueError, match=rf"{folder}: damaged .*delete it, and it is"):
        source[1]


@pytest.mark.parametrize("damage", [change(cut, SHARD), change(missing, SHARD)])
def test_a_shard_of_a_copy_of_before_is_refused_when_it_is_read(there, damage):
    folder = copy_in(there)
    (folder / copies.SEAL_FILE).unlink()
    damage(folder)
    with pytest.raises(ValueError, match=rf"{folder}: damaged .*delete it, and it is"):
        read(there)


def test_a_copy_of_an_earlier_version_is_read_as_it_is(there):
    (copy_in(there) / copies.SEAL_FILE).unlink()
    frames = datasets.load("folder", there / "frames", there / "tfds", split="test")
    assert (frames.skeleton.name, frames.metric, len(frames)) == ("body15", True, 3)
    np.testing.assert_array_equal(frames.source[2]["joints_px"][0], [10.5, 22.25])


def test_what_the_machine_does_not_allow_is_no_damage(made):
    """Each shard stays open: a copy of many may need more files than a process has."""
    source, folder = open_copy(made).examples_of("test"), copy_in(made)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(OSError, match=f"Too many open files.*{folder}"):
            source[0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert read(made)  # whole as it was


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.EIO, "Input/output error"),
        OSError(errno.ESTALE, "Stale file handle"),
        PermissionError("not yours"),
    ],
)
def test_errors_of_the_machine_pass_through_as_they_are(made, error):
    with pytest.raises(type(error)) as caught, copies.damage_named(made):
        raise error
    assert caught.value is error


def test_frames_beyond_the_last_are_an_index_error(made):
    source = open_copy(made).examples_of("test")
    for index in (-1, 3):
        with pytest.raises(IndexError, match=f"frame {index} of 3"):
            source[index]


def test_what_a_copy_was_made_of_is_sealed(tmp_path):
    fabricate.k2hpd(tmp_path / "source")
    load = functools.partial(
        datasets.load, "k2hpd", tfds_dir=tmp_path / "tfds", split="test"
    )
    load(tmp_path / "source")
    (record,) = (tmp_path / "tfds").rglob("source.txt")
    record.write_text("0123456789ab")
    for source in (None, tmp_path / "source"):
        with pytest.raises(ValueError, match="damaged .source.txt is not as it was"):
            load(source)


def test_a_prepared_copy_is_opened_without_a_lock(there):
    """It may be on a disk that cannot be written."""
    (lock,) = (there / "tfds").rglob("*.lock")
    lock.unlink()
    assert len(read(there)) == 3
    assert not list((there / "tfds").rglob("*.lock"))
