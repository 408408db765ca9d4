import zlib

import mujoco
import numpy as np
import pytest
import tensorflow_datasets as tfds

from cmbjax.camera import ITOP_CAMERA, camera_to_pixels, pixels_to_camera
from cmbjax.data.examples import frame_name
from cmbjax.data.recordings import recordings as frames_of_recordings
from cmbjax.skeletons import BODY15
from datasets.mannequin import frames, recordings
from datasets.mannequin.mannequin import Mannequin, MannequinConfig
from datasets.simulation import poses, posing, room
from datasets.simulation import structured_light as sensor
from datasets.simulation.anatomy import LIMITS
from datasets.simulation.shape import Shape, sample_shape

# metres: ITOP's labels lie this far behind the surface (medians over real frames)
LABEL_BEHIND_SURFACE = {
    "head": 0.093,
    "neck": 0.041,
    "shoulder": 0.013,
    "elbow": 0.007,
    "hand": 0.0,
    "torso": 0.091,
    "hip": 0.086,
    "knee": 0.046,
    "foot": 0.041,
}


def kind(joint):
    return joint.split("_")[-1]


@pytest.fixture(scope="module")
def some_frames():
    return [frames.make_frame(7, "train", 10 * i) for i in range(60)]


@pytest.fixture(scope="module")
def some_scenes():
    rngs = [np.random.default_rng(i) for i in range(40)]
    return [frames.sample_scene(sample_shape(rng), rng) for rng in rngs]


def prepare(folder, workers, seed=0):
    config = MannequinConfig(
        name="some", train=16, validation=4, test=4, seed=seed, workers=workers
    )
    builder = Mannequin(data_dir=folder, config=config, file_format="array_record")
    builder.download_and_prepare()
    decoders = {"depth": tfds.decode.SkipDecoding()}
    return {
        split: {
            example["frame"]: example
            for example in builder.as_data_source(split, decoders=decoders)
        }
        for split in frames.SPLITS
    }


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("one"), workers=1)


def test_two_workers_make_the_same_frames_as_one(prepared, tmp_path):
    again = prepare(tmp_path, workers=2)
    for split, examples in prepared.items():
        assert again[split].keys() == examples.keys()
        for name, example in examples.items():
            for field, value in example.items():
                np.testing.assert_array_equal(again[split][name][field], value)


def test_another_seed_makes_other_frames():
    one, other = (frames.make_frame(seed, "train", 0) for seed in (0, 1))
    assert (one.depth_mm != other.depth_mm).mean() > 0.5
    assert np.abs(one.joints_m - other.joints_m).max() > 0.01


def test_splits_are_complete_and_share_no_subject(prepared):
    assert [len(examples) for examples in prepared.values()] == [16, 4, 4]
    subjects = [{e["subject"] for e in prepared[s].values()} for s in frames.SPLITS]
    # ten frames of a body: 16 training frames show two
    assert [len(names) for names in subjects] == [2, 1, 1]
    assert len(set.union(*subjects)) == 4


def test_bodies_differ_within_a_split_and_between_splits():
    shapes = [
        frames.person_shape(0, split, n) for split in frames.SPLITS for n in (0, 1)
    ]
    assert len(set(shapes)) == 6
    assert frames.person_shape(0, "train", 1) == shapes[1]


def test_joints_project_to_their_pixels(some_frames):
    for frame in some_frames:
        projected = camera_to_pixels(frame.joints_m, ITOP_CAMERA)
        np.testing.assert_allclose(frame.joints_px, projected, atol=1e-3)
        back = pixels_to_camera(frame.joints_px, frame.joints_m[:, 2], ITOP_CAMERA)
        np.testing.assert_allclose(back, frame.joints_m, atol=1e-4)


def test_a_joint_is_visible_exactly_inside_the_image(some_frames):
    visible = np.array([frame.visible for frame in some_frames])
    joints_px = np.array([frame.joints_px for frame in some_frames])
    inside = (joints_px > 0).all(-1) & (joints_px < [320, 240]).all(-1)
    np.testing.assert_array_equal(visible, inside)
    assert 0.9 < visible.mean() < 1


def test_labels_lie_as_far_behind_the_surface_as_those_of_itop(some_frames):
    behind = {name: [] for name in LABEL_BEHIND_SURFACE}
    for frame in some_frames:
        for i, joint in enumerate(BODY15.joints):
            x, y = np.floor(frame.joints_px[i]).astype(int)
            if not frame.visible[i] or frame.depth_mm[y, x] == 0:
                continue
            # The neck's label is under shoulders, neck and torso alike.
            if frame.parts[y, x] == 1 + i or (
                joint == "neck" and frame.parts[y, x] in (2, 3, 4, 9)
            ):
                surface = frame.depth_mm[y, x] / 1000
                behind[kind(joint)].append(frame.joints_m[i, 2] - surface)
    for name, expected in LABEL_BEHIND_SURFACE.items():
        assert len(behind[name]) > 30
        assert np.median(behind[name]) == pytest.approx(expected, abs=0.025)


def test_the_part_under_a_joint_is_its_own(some_frames):
    own, seen = np.zeros(15), 0
    for frame in some_frames:
        x, y = np.clip(frame.joints_px, 0, [319, 239]).astype(int).T
        own += frame.visible & (frame.parts[y, x] == 1 + np.arange(15))
        seen += frame.visible
    share = dict(zip(BODY15.joints, own / seen, strict=True))
    hidden = [name for name, value in share.items() if value < 0.6 and name != "neck"]
    assert hidden == []
    assert share["head"] > 0.85 and share["right_hand"] > 0.8


def test_parts_cover_a_person_and_no_more(some_frames):
    for frame in some_frames:
        assert frame.parts.max() <= 15
        assert 0.005 < (frame.parts > 0).mean() < 0.3
        depth = frame.depth_mm[(frame.parts > 0) & (frame.depth_mm > 0)] / 1000
        span = frame.joints_m[:, 2].min() - 0.25, frame.joints_m[:, 2].max() + 0.25
        assert ((depth > span[0]) & (depth < span[1])).mean() > 0.9


def test_poses_respect_joint_limits():
    low, high = np.radians(list(LIMITS.values())).T
    for seed in range(500):
        rng = np.random.default_rng(seed)
        hinges, _ = poses.sample_pose(rng, poses.sample_families(rng))
        assert (hinges >= low).all() and (hinges <= high).all()


def test_limits_name_the_hinges_in_the_order_of_the_model(some_scenes):
    model, data, _ = some_scenes[0]
    names = [model.joint(i).name for i in range(1, model.njnt)]
    assert names == list(LIMITS)
    assert (data.qpos[7:] >= model.jnt_range[1:, 0] - 1e-9).all()
    assert (data.qpos[7:] <= model.jnt_range[1:, 1] + 1e-9).all()


def test_nothing_interpenetrates_and_the_person_stands_on_the_floor(some_scenes):
    for model, data, _ in some_scenes:
        assert posing.deepest_contact(data) < posing.SINK_M
        assert posing.lowest_point(model, data) == pytest.approx(0, abs=1e-9)


def test_a_hand_in_the_chest_is_a_contact():
    rng = np.random.default_rng(0)
    model, data, view = frames.sample_scene(Shape(), rng)
    hinges = dict.fromkeys(LIMITS, 0.0)
    posing.strike(model, data, view, np.array(list(hinges.values())), np.zeros(2))
    # Both arms through the belly: forwards, turned in, bent by 150 degrees.
    hinges |= {"right_elbow_flexion": 2.4, "right_shoulder_twist": 1.9}
    hinges |= {"left_elbow_flexion": 1.4, "left_shoulder_twist": 1.9}
    posing.strike(model, data, view, np.array(list(hinges.values())), np.zeros(2))
    assert posing.deepest_contact(data) > posing.SINK_M


def view_ahead(**changes):
    level = {"height": 1.0, "pitch": 0.0, "roll": 0.0, "distance": 3.0}
    return room.View(**(level | {"column": 0.0, "yaw": 0.0} | changes))


def box_and_sphere():
    spec = mujoco.MjSpec()
    spec.nuser_geom = 1
    walls = room.Room(spec)
    # front face at 2 m, from -0.69 to -0.31 m; a ball whose front is at 2.5 m
    walls.add(room.BOX, (0.19, 0.5, 0.2), (-0.5, 2.5, 1.0), label=3)
    walls.add(mujoco.mjtGeom.mjGEOM_SPHERE, (0.5, 0, 0), (0.7, 3.0, 1.0), label=5)
    model = spec.compile()
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    return frames.cast_rays(model, data, view_ahead())


def test_rays_measure_depth_along_the_optical_axis():
    depth, labels = box_and_sphere()
    # 160.5 - 285.71 * 0.69 / 2 = 61.9 and 160.5 - 285.71 * 0.31 / 2 = 116.2, then the
    # box's side until 160.5 - 285.71 * 0.31 / 3 = 131.0; a centre is at half a pixel.
    box = labels[120] == 3
    front = box & (np.abs(depth[120] - 2.0) < 1e-9)
    assert np.flatnonzero(front)[[0, -1]].tolist() == [62, 115]
    assert np.flatnonzero(box).tolist() == list(range(62, 131))
    x = (130.5 - 160.5) * 0.0035
    assert depth[120, 130] == pytest.approx(-0.31 / x, rel=1e-6)
    assert depth[0, 160] == -1 and labels[0, 160] == 0


def test_rays_hit_a_sphere_where_the_formula_says():
    depth, labels = box_and_sphere()
    column, row = 228, 120
    x, y = (column + 0.5 - 160.5) * 0.0035, (row + 0.5 - 120.5) * 0.0035
    ray, centre = np.array([x, y, 1]), np.array([0.7, 0, 3])
    b, c = ray @ centre, centre @ centre - 0.25
    near = (b - np.sqrt(b * b - (ray @ ray) * c)) / (ray @ ray)
    assert labels[row, column] == 5
    assert depth[row, column] == pytest.approx(near, rel=1e-6)


def test_a_camera_pitched_down_sees_the_floor_higher():
    down = view_ahead(pitch=0.1).rotation
    np.testing.assert_allclose(down[:, 2], [0, np.cos(0.1), -np.sin(0.1)])
    np.testing.assert_allclose(np.linalg.det(down), 1)
    # right, down and forward form a right-handed frame: x cross y = z
    np.testing.assert_allclose(np.cross(down[:, 0], down[:, 1]), down[:, 2])


def test_disparity_steps_grow_with_the_square_of_depth():
    depth = np.linspace(0.9, 4.0, 20001)[None]
    readings = np.unique(sensor.quantise(depth))
    steps, middle = np.diff(readings), (readings[1:] + readings[:-1]) / 2
    np.testing.assert_allclose(steps, 2.85e-3 * middle**2, rtol=0.01)
    # At 3.5 m: 2.85e-3 * 12.25 = 0.035 m.
    assert steps[np.abs(middle - 3.5).argmin()] == pytest.approx(0.035, abs=0.001)


def test_what_is_far_or_absent_has_no_reading():
    depth = np.array([[0.0, -1.0, 2.0, sensor.FAR_M + 0.1]])
    np.testing.assert_array_equal(sensor.quantise(depth) > 0, [[0, 0, 1, 0]])


def test_the_shadow_falls_on_the_left_of_what_is_near():
    depth = np.full((1, 100), 4.0)
    depth[0, 60:80] = 2.0
    # 300 px * 0.08 m * (1/2 - 1/4) = 6 px
    dark = sensor.shadow(depth, focal_px=300.0, baseline_m=0.08)
    assert np.flatnonzero(dark[0]).tolist() == [55, 56, 57, 58, 59]


def test_a_perfect_sensor_only_rounds_and_loses_the_stripe():
    depth = np.full((20, 30), 3.0)
    depth[:10] = 2.0
    perfect = sensor.Noise(jitter_px=0, bloom_px=0, steps=0, edges=0)
    rng = np.random.default_rng(0)
    reading = sensor.measure(depth, depth < 0, perfect, 285.7, rng)
    assert reading.dtype == np.uint16
    assert (reading[:, : sensor.STRIPE] == 0).all()
    expected = np.rint(1000 * sensor.quantise(depth))[:, sensor.STRIPE :]
    np.testing.assert_array_equal(reading[:, sensor.STRIPE :], expected)
    assert abs(expected[0, 0] - 2000) <= 6 and abs(expected[-1, 0] - 3000) <= 13


def test_dark_surfaces_have_holes_and_bright_ones_none():
    depth = np.full((60, 60), 2.5)
    dark = np.zeros((60, 60), bool)
    dark[:, 30:] = True
    noise = sensor.Noise(jitter_px=0, bloom_px=0, dark=0.5)
    reading = sensor.measure(depth, dark, noise, 285.7, np.random.default_rng(0))
    assert (reading[:, 3:30] > 0).all()
    assert 0.3 < (reading[:, 30:] == 0).mean() < 0.7


def test_frames_have_about_as_many_holes_as_the_real_sensor(some_frames):
    holes = np.mean([(frame.depth_mm == 0).mean() for frame in some_frames])
    assert 0.015 < holes < 0.07  # ITOP: 0.043


def test_the_person_faces_the_camera_up_to_profile(some_frames):
    joints_m = np.array([frame.joints_m for frame in some_frames])
    right, left = joints_m[:, 2], joints_m[:, 3]
    # Who faces the camera has the left shoulder on the right of the image.
    turn = np.degrees(np.arctan2(left[:, 2] - right[:, 2], left[:, 0] - right[:, 0]))
    assert np.abs(turn).max() < 130 and np.abs(turn).mean() > 5
    assert (left[:, 0] > right[:, 0]).mean() > 0.9


def test_independent_frames_are_those_of_the_prepared_copies():
    # Version 1.3.0, with MuJoCo 4.0.0 on x86-64. Other frames need another version.
    expected = {
        ("train", 5): 1401525919,
        ("train", 17): 2869453721,
        ("test", 999): 1301247024,
    }
    for (split, index), checksum in expected.items():
        frame = frames.make_frame(0, split, index)
        assert zlib.crc32(frame.parts, zlib.crc32(frame.depth_mm)) == checksum
    joints = frames.make_frame(0, "train", 5).joints_m
    expected = [[0.17494, -0.58188, 2.36534], [-0.37213, 0.12044, 2.55429]]
    np.testing.assert_allclose(joints[[0, 6]], expected, atol=1e-4)


LENGTH = 20  # frames of a recording


@pytest.fixture(scope="module")
def recording():
    return [recordings.make_frame(0, "train", 20 + i, LENGTH) for i in range(LENGTH)]


@pytest.fixture(scope="module")
def some_recordings():
    return [recordings.make_recording(0, "train", n, LENGTH) for n in range(30)]


def joints_of(scene):
    """Returns the labels [frames, joints, 3] of a recording."""
    joints_m = []
    for pose in scene.course:
        posing.strike(scene.model, scene.data, scene.view, *pose)
        joints_m.append(frames.locate_joints(scene.model, scene.data, scene.view))
    return np.array(joints_m)


def bone_lengths(joints_m):
    """Returns the lengths of what is rigid between joints, whose labels lie before."""
    before = [frames.TOWARDS_CAMERA[kind(joint)] for joint in BODY15.joints]
    distance = np.linalg.norm(joints_m, axis=-1)
    centres = joints_m * (1 + np.array(before) / distance)[..., None]
    bones = [("right_shoulder", "left_shoulder"), ("right_hip", "left_hip")]
    for side in ("right", "left"):
        bones += [(f"{side}_hip", f"{side}_knee"), (f"{side}_knee", f"{side}_foot")]
    ends = np.array([[BODY15.joints.index(end) for end in bone] for bone in bones])
    start, end = centres[..., ends[:, 0], :], centres[..., ends[:, 1], :]
    return np.linalg.norm(end - start, axis=-1)


def disparity_steps_apart(one, other):
    """Returns how far two frames are apart where both measure the background."""
    seen = (one.parts == 0) & (other.parts == 0)
    seen &= (one.depth_mm > 0) & (other.depth_mm > 0)
    assert seen.mean() > 0.5
    return np.abs(1000 / one.depth_mm[seen] - 1000 / other.depth_mm[seen]) / sensor.STEP


def test_background_of_a_recording_stays_but_for_the_noise(recording):
    for one, other in zip(recording[:-1], recording[1:], strict=True):
        apart = disparity_steps_apart(one, other)
        assert np.median(apart) < 1.1 and np.quantile(apart, 0.95) < 3
        assert (one.depth_mm != other.depth_mm).mean() > 0.1  # noise of its own


def test_bones_of_a_recording_keep_their_lengths(recording):
    lengths = bone_lengths(np.array([frame.joints_m for frame in recording]))
    assert np.ptp(lengths, axis=0).max() < 1e-3
    assert {frame.subject for frame in recording} == {"train_0001"}


def test_people_of_recordings_move_as_fast_as_people_do(some_recordings):
    joints_m = np.array([joints_of(scene) for scene in some_recordings])
    steps = np.linalg.norm(np.diff(joints_m, axis=1), axis=-1)
    assert steps.max() < 0.7 and (steps.max(axis=(1, 2)) > 0.02).all()
    hands = steps[..., [BODY15.joints.index(f"{s}_hand") for s in ("right", "left")]]
    # metres in a tenth of a second
    assert 0.03 < np.median(hands) < 0.08 and np.quantile(hands, 0.95) < 0.35
    # No jerks: a step is much like the one before it.
    assert np.abs(np.diff(hands, axis=1)).max() < 0.4


def test_people_of_recordings_stay_in_view(some_recordings):
    joints_m = np.array([joints_of(scene) for scene in some_recordings])
    joints_px = camera_to_pixels(joints_m, ITOP_CAMERA)
    inside = ((joints_px >= 0) & (joints_px < [320, 240])).all(-1)
    assert inside.mean() > 0.95
    assert inside[..., BODY15.joints.index("torso")].all()


def test_poses_of_a_recording_do_not_sink_deep_into_anything(some_recordings):
    for scene in some_recordings:
        for pose in scene.course:
            posing.strike(scene.model, scene.data, scene.view, *pose)
            deepest = posing.deepest_contact(scene.data)
            assert deepest < recordings.SINK_ON_THE_WAY_M
            lowest = posing.lowest_point(scene.model, scene.data)
            assert lowest == pytest.approx(0, abs=1e-9)


def test_a_move_eases_by_hand():
    pose, aim = (np.zeros(2), np.array([1.0])), (np.array([8.0, 0]), np.array([-3.0]))
    way = recordings.move_between(pose, aim, frames=4)
    # t^3 (10 - 15 t + 6 t^2) at 1/4, 1/2, 3/4, 1: 53/512, 1/2, 459/512, 1
    hinges, lean = (np.stack(angles) for angles in zip(*way, strict=True))
    np.testing.assert_allclose(hinges[:, 0], [53 / 64, 4, 459 / 64, 8])
    np.testing.assert_allclose(lean[:, 0], [75 / 128, -1, -331 / 128, -3])
    assert not hinges[:, 1].any()


def test_a_step_moves_and_turns_the_person(some_recordings):
    scene = some_recordings[0]
    model, data, (hinges, lean, _) = scene.model, scene.data, scene.course[0]
    posing.strike(model, data, view_ahead(yaw=0.5), hinges, lean)
    before = data.site_xpos - (0, 3.0, 0)
    posing.strike(model, data, view_ahead(yaw=0.2), hinges, lean, step=(0.1, -0.2, 0.3))
    after = data.site_xpos - (0.1, 2.8, 0)
    np.testing.assert_allclose(after, before, atol=1e-9)


def test_frame_of_a_recording_does_not_depend_on_what_was_made_before(recording):
    recordings.make_frame(0, "train", 45, LENGTH)
    for phase in (13, 7):
        again = recordings.make_frame(0, "train", 20 + phase, LENGTH)
        np.testing.assert_array_equal(again.depth_mm, recording[phase].depth_mm)
        np.testing.assert_array_equal(again.joints_m, recording[phase].joints_m)


def test_another_recording_shows_another_person_in_another_room(recording):
    other = recordings.make_frame(0, "train", 47, LENGTH)
    assert other.subject == "train_0002"
    lengths = [bone_lengths(frame.joints_m) for frame in (recording[7], other)]
    assert np.abs(lengths[0] - lengths[1]).max() > 0.01
    assert np.median(disparity_steps_apart(recording[7], other)) > 3


def test_subjects_of_sequences_are_recordings(tmp_path):
    builder = Mannequin(
        data_dir=tmp_path, config="sequences_tiny", file_format="array_record"
    )
    builder.download_and_prepare()
    decoders = {"depth": tfds.decode.SkipDecoding()}
    for split, count in zip(frames.SPLITS, (2, 1, 1), strict=True):
        source = builder.as_data_source(split, decoders=decoders)
        names = [
            [frame_name(source[index]) for index in row]
            for row in frames_of_recordings(source)
        ]
        expected = [f"{split}_{index:06d}" for index in range(count * LENGTH)]
        assert names == np.reshape(expected, (count, LENGTH)).tolist()
