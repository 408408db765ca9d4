"""Files of settings, and folders that are gone on in."""

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cmbjax.files import (
    as_json,
    check_same,
    each_line,
    only_one,
    read_json,
    read_lines,
    read_npz,
    whole_file,
    write_json,
    write_text,
)
from tests import fabricate

ROOT = Path(__file__).parents[1]


def test_other_settings_are_refused_with_both_values(tmp_path):
    path = tmp_path / "settings.json"
    write_json(path, {"seed": 1, "model": "rf"})
    check_same(path, {"seed": 1, "model": "rf"}, "--run_dir=x holds a forest")
    match = "^--run_dir=x holds a forest of other settings; .* seed: 1 there, 2 here$"
    with pytest.raises(ValueError, match=match):
        check_same(path, {"seed": 2, "model": "rf"}, "--run_dir=x holds a forest")
    with pytest.raises(ValueError, match="flags. model: rf there, None here"):
        check_same(path, {"seed": 1}, "--run_dir=x holds a forest")
    path.write_text("[]")
    with pytest.raises(ValueError, match="seed: None there, 2 here"):
        check_same(path, {"seed": 2}, "--run_dir=x holds a forest")


def test_json_has_null_for_what_is_no_number_and_keeps_its_order():
    value = {"b": [1.0, float("nan")], "a": (float("-inf"), 2)}
    assert as_json(value) == '{"b": [1.0, null], "a": [null, 2]}'


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "x.txt"
    write_text(path, "before \u6df1")

    def interrupted():
        with whole_file(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == "before \u6df1".encode()
    assert [other.name for other in tmp_path.iterdir()] == ["x.txt"]


def test_a_lock_is_held_by_one_process_and_goes_with_it(tmp_path):
    path = tmp_path / "lock"
    hold = f"""
import os, sys
from pathlib import Path
from cmbjax.files import only_one
with only_one(Path({str(path)!r}), "taken"):
    print("held", flush=True)
    sys.stdin.read()
    os._exit(9)
"""
    other = subprocess.Popen(
        [sys.executable, "-c", hold],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=fabricate.environment(ROOT),
    )
    assert other.stdout.readline() == "held\n"
    with (
        pytest.raises(ValueError, match="^--out_dir=x is taken$"),
        only_one(path, "--out_dir=x is taken"),
    ):
        pass
    other.communicate()
    with only_one(path, "taken"):
        assert path.read_bytes() == b""


def test_lines_are_read_one_by_one_and_a_half_one_is_left_out(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n{"a"')
    assert read_lines(path, dict[str, int]) == [{"a": 1}, {"a": 2}]
    path.write_text('{"a": 1}\n{"a": "2"}\n')
    lines = each_line(path, dict[str, int])
    assert next(lines) == {"a": 1}
    with pytest.raises(ValueError, match=r"x\.jsonl: line 2: Expected `int`, got"):
        next(lines)


def test_arrays_are_read_or_refused_by_the_files_name(tmp_path):
    path = tmp_path / "x.npz"
    with pytest.raises(FileNotFoundError, match="x.npz: no such file"):
        read_npz(path)
    np.savez_compressed(path, a=np.arange(1000.0), b=np.ones(3))
    np.testing.assert_array_equal(read_npz(path)["a"], np.arange(1000.0))
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[200] ^= 1
    npy = tmp_path / "y.npy"
    np.save(npy, np.ones(3))
    pickled = tmp_path / "z.npz"
    np.savez(pickled, a=np.array([{}]))
    for damaged in (
        b"",
        b"junk",
        whole[:-9],
        bytes(flipped),
        npy.read_bytes(),
        pickled.read_bytes(),
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="x.npz: expected a whole .npz of arrays"):
            read_npz(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("notes.txt", "text")
    with pytest.raises(ValueError, match="x.npz: notes.txt is no array"):
        read_npz(path)


def test_json_that_is_larger_than_the_memory_is_named(tmp_path, monkeypatch):
    def large(path):
        raise MemoryError

    monkeypatch.setattr(Path, "read_bytes", large)
    with pytest.raises(ValueError, match=r"x\.json is larger than the memory"):
        read_json(tmp_path / "x.json")
