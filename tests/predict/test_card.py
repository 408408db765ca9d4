"""The card of an exported network: whole, or refused."""

import json
import math
import os
import random
import shutil

import pytest

from cmbjax.files import read_json
from cmbjax.predict.card import CARD_FILE, WEIGHTS, amend, read_card, write_card

PEOPLE = WEIGHTS / "people-96"


def changed(folder, **fields):
    """Writes a card with other fields and without a checksum, as earlier versions."""
    about = read_json(PEOPLE / CARD_FILE) | fields
    told = {k: v for k, v in about.items() if v is not ... and k != "sha256"}
    (folder / CARD_FILE).write_text(json.dumps(told))
    return folder


def test_a_card_of_which_a_bit_is_flipped_says_the_same_or_is_refused(tmp_path):
    good = (PEOPLE / CARD_FILE).read_bytes()
    path, rng = tmp_path / CARD_FILE, random.Random(0)
    for _ in range(600):
        content = bytearray(good)
        content[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        try:
            read_card(tmp_path)
        except ValueError as error:
            assert str(path) in str(error)
        else:
            assert json.loads(content) == json.loads(good)


@pytest.mark.parametrize(
    "fields",
    [
        {"calibration": [[0.0, 1.0]] * 15},
        {"offsets_m": [0.1] * 15},
        {"depth_range": 999.0},
        {"r": 1.0},
        {"presence": None},
        {"outputs": {"depth_maps": [1, 48, 48, 15], "heatmaps": [1, 48, 48, 15]}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_a_card_that_was_edited_is_refused(tmp_path, fields):
    about = read_json(PEOPLE / CARD_FILE)
    (tmp_path / CARD_FILE).write_text(json.dumps(about | fields))
    with pytest.raises(ValueError, match=r"card\.json is damaged: .* than its sha256"):
        read_card(tmp_path)
    # Laid out otherwise it says the same.
    (tmp_path / CARD_FILE).write_text(json.dumps(about))
    assert read_card(tmp_path).r == 3.0
    # Written on purpose it is a card.
    write_card(tmp_path, about | fields)
    read_card(tmp_path)


def test_amended_cards_stay_whole_and_damaged_ones_are_not_amended(tmp_path):
    shutil.copytree(PEOPLE, tmp_path, dirs_exist_ok=True)
    card, before = read_card(tmp_path), read_json(tmp_path / CARD_FILE)
    amend(card, presence=[0.0, 1.0, 2.0])
    assert read_card(tmp_path).presence == (0.0, 1.0, 2.0)
    after = read_json(tmp_path / CARD_FILE)
    same = {"presence": 0, "sha256": 0}
    assert before | same == after | same and before["sha256"] != after["sha256"]
    text = (tmp_path / CARD_FILE).read_text().replace("1000.0", "1001.0")
    (tmp_path / CARD_FILE).write_text(text)
    with pytest.raises(ValueError, match="is damaged"):
        amend(card, presence=[0.0, 1.0, 1.0])
    assert (tmp_path / CARD_FILE).read_text() == text


def test_a_card_may_have_values_that_json_has_not(tmp_path):
    about = read_json(PEOPLE / CARD_FILE)
    write_card(tmp_path, about | {"evaluations": [{"metrics": {"PDJ": math.nan}}]})
    read_card(tmp_path)
    assert read_json(tmp_path / CARD_FILE)["evaluations"] == [
        {"metrics": {"PDJ": None}}
    ]


def test_a_card_of_an_earlier_version_has_no_checksum(tmp_path):
    assert read_card(changed(tmp_path)).side == 96


NETWORK = {
    "name": "cmb",
    "num_joints": 15,
    "width": 0.5,
    "head3d": "maps",
    "memory_mode": "shared",
    "trunk_norm": True,
}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"depth_rage": 1.0}, "has fields that no card has: depth_rage"),
        (
            {"side": 104},
            r"make heat maps of \[1, 52, 52, 15\], but outputs are heatmaps",
        ),
        (
            {"stride": 4},
            r"make heat maps of \[1, 24, 24, 15\], but outputs are heatmaps",
        ),
        ({"outputs": {}}, "make heat maps of"),
        (
            {"outputs": {"heatmaps": "x"}},
            r"Expected `array`, got `str` - at `\$.outputs",
        ),
        ({"network": {}}, r"missing required field `name` - at `\$.network`"),
        ({"network": NETWORK | {"name": [1]}}, r"got `array` - at `\$.network.name`"),
        ({"network": NETWORK | {"width": 1e30}}, r"<= 64.0 - at `\$.network.width`"),
        ({"network": NETWORK | {"width": "x"}}, r"got `str` - at `\$.network.width`"),
        ({"network": NETWORK | {"num_joints": None}}, r"`\$.network.num_joints`"),
        (
            {"network": NETWORK | {"num_joints": 16}},
            "must be of the 15 joints of body15",
        ),
        ({"network": NETWORK | {"head3d": 5}}, r"got `int` - at `\$.network.head3d`"),
        ({"network": NETWORK | {"depth": 5}}, "unknown field `depth`"),
    ],
)
def test_what_is_no_card_is_refused_by_its_field(tmp_path, fields, says):
    with pytest.raises(ValueError, match=f"card.json.*{says}"):
        read_card(changed(tmp_path, **fields))


def test_a_file_of_another_size_is_not_read_to_be_refused(tmp_path):
    for name in ("card.json", "weights.npz"):
        shutil.copy(PEOPLE / name, tmp_path / name)
    card = read_card(tmp_path)
    assert card.file("weights.npz") == tmp_path / "weights.npz"
    os.truncate(tmp_path / "weights.npz", 10**12)  # a hole: takes no room
    with pytest.raises(ValueError, match=r"weights\.npz is damaged: its size"):
        card.file("weights.npz")
