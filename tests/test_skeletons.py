import numpy as np
import pytest

from cmbjax.skeletons import BODY15, BODY19, BODY20, HAND20, SKELETONS, Skeleton

EVERY = pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=SKELETONS)
BODIES = pytest.mark.parametrize(
    "skeleton", [BODY19, BODY15, BODY20], ids=lambda skeleton: skeleton.name
)


def mirror_joints(joints_px, skeleton, width):
    mirrored = joints_px[:, list(skeleton.mirror)]
    return np.stack([width - mirrored[..., 0], mirrored[..., 1]], axis=-1)


@EVERY
def test_parents_form_one_tree(skeleton):
    assert len(skeleton.parents) == skeleton.num_joints
    assert skeleton.parents.count(-1) == 1
    for joint in range(skeleton.num_joints):
        ancestors = [joint]
        while skeleton.parents[ancestors[-1]] >= 0:
            ancestors.append(skeleton.parents[ancestors[-1]])
            assert len(ancestors) <= skeleton.num_joints, "a cycle"
        assert ancestors[-1] == skeleton.parents.index(-1)


@EVERY
def test_mirroring_twice_is_the_identity(skeleton):
    joints_px = np.random.default_rng(0).integers(0, 256, (3, skeleton.num_joints, 2))
    twice = mirror_joints(mirror_joints(joints_px, skeleton, 256), skeleton, 256)
    np.testing.assert_array_equal(twice, joints_px)


@BODIES
def test_mirroring_preserves_the_tree(skeleton):
    mirror = (*skeleton.mirror, -1)  # the root's parent stays none
    for joint, parent in enumerate(skeleton.parents):
        assert skeleton.parents[mirror[joint]] == mirror[parent]


@BODIES
def test_mirror_pairs_are_every_right_and_left_joint(skeleton):
    paired = {joint for pair in skeleton.mirror_pairs for joint in pair}
    for right, left in skeleton.mirror_pairs:
        side, part = skeleton.joints[right].split("_")
        assert (side, skeleton.joints[left]) == ("right", f"left_{part}")
    for joint in set(range(skeleton.num_joints)) - paired:
        assert not skeleton.joints[joint].startswith(("right_", "left_"))


def test_mirror_by_hand():
    assert BODY15.mirror == (0, 1, 3, 2, 5, 4, 7, 6, 8, 10, 9, 12, 11, 14, 13)
    assert BODY19.mirror[3:9] == (6, 7, 8, 3, 4, 5)
    assert BODY19.mirror[17:] == (18, 17)
    assert HAND20.mirror == tuple(range(20))


@EVERY
def test_rows_and_segments_hold_joints_of_the_set_once(skeleton):
    segments = [*skeleton.torsos.values()]
    if skeleton.head is not None:
        segments.append(skeleton.head)
    groups = [
        *skeleton.rows.values(),
        *(end for segment in segments for end in segment),
    ]
    for joints in groups:
        assert joints and len(set(joints)) == len(joints)
        assert set(joints) <= set(range(skeleton.num_joints))


@BODIES
def test_rows_of_parts_name_their_joints(skeleton):
    torso = "spine" if skeleton.name == "body20" else "torso"  # the Kinect's name
    one_joint = {"Head": "head", "Neck": "neck", "Torso": torso, "Feet": "foot"}
    for row, joints in skeleton.rows.items():
        if row.endswith("Body"):
            continue
        part = one_joint.get(row, row.lower().removesuffix("s"))
        assert {skeleton.joints[j].split("_")[-1] for j in joints} == {part}


@BODIES
def test_the_full_body_is_the_union_of_upper_and_lower(skeleton):
    rows = {row: set(joints) for row, joints in skeleton.rows.items()}
    assert rows["Upper Body"] | rows["Lower Body"] == rows["Full Body"]
    parts = [joints for row, joints in rows.items() if not row.endswith("Body")]
    assert set().union(*parts) <= rows["Full Body"]


def test_body15s_rows_reproduce_table_4():
    sizes = {row: len(joints) for row, joints in BODY15.rows.items()}
    ours = {"Head": 97.0, "Neck": 98.5, "Shoulders": 75.1, "Elbows": 64.7}
    ours |= {"Hands": 85.0, "Torso": 94.5, "Hips": 88.4, "Knees": 84.2, "Feet": 82.9}
    for body, value in {"Upper": 80.6, "Lower": 86.5, "Full": 83.4}.items():
        joints = set(BODY15.rows[f"{body} Body"])
        inside = [row for row in ours if set(BODY15.rows[row]) <= joints]
        total = sum(sizes[row] * ours[row] for row in inside)
        assert total / len(joints) == pytest.approx(value, abs=0.06), body


def test_body19s_rows_reproduce_table_3():
    # Table 3 has (11 Upper + 8 Lower) / 19 = Full for every method; for ours, its part
    # rows leave 97.6 for an eleventh upper joint (Neck has 97.2) and 95.0 for an eighth
    # lower one (Hips 93.5, Torso 96.6): upper_spine and hip_centre.
    upper, lower = BODY19.rows["Upper Body"], BODY19.rows["Lower Body"]
    assert (len(upper), len(lower)) == (11, 8)
    assert 15 in upper and {2, 16} <= set(lower)
    assert sorted(upper + lower) == list(range(19))


def test_bones_lead_from_the_parent_and_the_root_has_none():
    skeleton = Skeleton("bent", ("tip", "middle", "root"), parents=(1, 2, -1))
    assert skeleton.bones == ((1, 0), (2, 1))
