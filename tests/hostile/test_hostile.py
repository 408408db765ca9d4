"""A quick part of `python -m tests.hostile`, and the damage itself by hypothesis."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmbjax.files import read_json, read_lines
from tests.hostile import fuzz, mutate
from tests.hostile.targets import TARGETS

NUMBER, SLOW_NUMBER = 60, 12


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_damaged_files_are_read_or_refused_by_name(target, tmp_path):
    number = SLOW_NUMBER if target.slow else NUMBER
    ends = fuzz.run(target, tmp_path / "x", 0, number, tmp_path / "wrong")
    assert set(ends) <= {"read", "refused"}, ends
    assert ends["refused"], "some of the damage is noticed"


def test_the_fuzzer_sees_what_is_wrong(tmp_path):
    """What raises another error, names no file, or takes long, is told."""

    def target(read):
        make = TARGETS[0].make
        return type(TARGETS[0])("x", make, read, {".png": mutate.binary})

    def fails(error):
        def read(folder):
            if (folder / "x.png").read_bytes() != good:
                raise error

        return read

    TARGETS[0].make(tmp_path)
    good = (tmp_path / "x.png").read_bytes()
    for error, says in [
        (KeyError("a"), "KeyError: 'a'"),
        (ValueError("bad"), "names no file: ValueError: bad"),
        (ValueError("x.png: bad"), "refused"),
    ]:
        ends = fuzz.run(target(fails(error)), tmp_path / says[:4], 0, 3)
        assert any(end.startswith(says) for end in ends)


@given(st.binary(max_size=200), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_json_or_refused(tmp_path_factory, content, seed):
    path = tmp_path_factory.mktemp("json") / "x.json"
    for data in (content, mutate.binary(random.Random(seed), content)):
        path.write_bytes(data)
        for read in (read_json, read_lines):
            try:
                read(path)
            except ValueError as error:
                assert "x.json" in str(error)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
@settings(max_examples=60, deadline=None)
def test_json_comes_back_as_it_was(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "x.json"
    path.write_text(json.dumps(value))
    assert read_json(path) == value
