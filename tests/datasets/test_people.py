import importlib.util
import tarfile

import numpy as np
import pytest
import tensorflow_datasets as tfds

import datasets
from cmbjax.camera import camera_to_pixels
from cmbjax.data.examples import decode_depth
from cmbjax.skeletons import BODY15, BODY19
from datasets.people import motion, people
from datasets.simulation import active_stereo, time_of_flight

HAS_BEAM = importlib.util.find_spec("apache_beam") is not None
needs_anny = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in people.PACKAGES),
    reason=f"needs pip install -r {people.REQUIREMENTS}",
)
# warp, which anny runs on, has deprecated fields of its own.
warns = pytest.mark.filterwarnings("default")

LEFT, RIGHT = motion.SEGMENTS.index("left_forearm"), motion.SEGMENTS.index("right_hand")


def skeleton_file() -> str:
    """All bones hang from the root; the left forearm points left and has one hinge."""
    bones = sorted(set(motion.BONES.values()) - {"root"})
    lines = [":version 1.10", ":units", "  angle deg", ":root", ":bonedata"]
    for bone in bones:
        direction = "1 0 0" if bone == "lradius" else "0 -1 0"
        lines += ["  begin", f"    name {bone}", f"    direction {direction}"]
        lines += ["    length 1", "    axis 0 0 90 XYZ"]
        lines += ["    dof rx", "    limits (-10 170)"] * (bone == "lradius")
        lines += ["  end"]
    lines += [":hierarchy", "  begin", "    root " + " ".join(bones), "  end"]
    return "\n".join(lines) + "\n"


def motion_file(frames: int, angle: float, root: str = "0 0 0 0 0 0") -> str:
    lines = ["#!OML:ASF", ":FULLY-SPECIFIED", ":DEGREES"]
    for frame in range(frames):
        lines += [str(frame + 1), f"root {root}", f"lradius {angle}"]
    return "\n".join(lines) + "\n"


def write_motions(folder, clips: int = 1, **options) -> None:
    folder.mkdir(parents=True)
    (folder / "01.asf").write_text(skeleton_file())
    for number in range(clips):
        (folder / f"01_{number:02d}.amc").write_text(motion_file(13, 90.0, **options))


def test_motion_turns_a_limb_about_its_own_axes(tmp_path):
    write_motions(tmp_path / "01")
    (clip,) = motion.read_clips(tmp_path)
    assert clip.name == "01_00"
    assert len(clip.rotations) == 2  # the first and the thirteenth frame
    # The hinge's frame is turned by 90 degrees about z (forwards), so that its x is y
    # (up). A quarter turn about it takes the arm from the left, x, to the back, -z.
    bent = clip.rotations[0, LEFT] @ clip.directions[LEFT]
    np.testing.assert_allclose(clip.directions[LEFT], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(bent, [0, 1, 0], atol=1e-12)  # y is to the back
    np.testing.assert_allclose(clip.rotations[0, RIGHT], np.eye(3), atol=1e-12)


def test_motion_turns_everything_with_the_root(tmp_path):
    write_motions(tmp_path / "01", root="5 6 7 0 90 0")
    (clip,) = motion.read_clips(tmp_path)
    # About y (up) from z (forwards) to x (left): the person faces the own left.
    front = clip.rotations[0, motion.SEGMENTS.index("pelvis")] @ (0, -1, 0)
    np.testing.assert_allclose(front, [1, 0, 0], atol=1e-12)


def test_motion_is_read_from_archives_too(tmp_path):
    write_motions(tmp_path / "files" / "01", clips=2)
    (tmp_path / "packed").mkdir()
    with tarfile.open(tmp_path / "packed" / "all.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "files" / "01", arcname="01")
    plain, packed = (motion.read_clips(tmp_path / d) for d in ("files", "packed"))
    assert [clip.name for clip in packed] == ["01_00", "01_01"]
    for a, b in zip(plain, packed, strict=True):
        np.testing.assert_array_equal(a.rotations, b.rotations)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("01.asf", ":root\n", "01.asf: expected :bonedata"),
        ("01_00.amc", "1\nroot 0 0 0 0 0 0\nlradius 1 2\n", "lradius has 2 values"),
        ("01_00.amc", ":DEGREES\n", "01_00.amc: expected the same bones"),
        ("all.tar.xz", "no archive", "all.tar.xz: not a whole archive"),
    ],
)
def test_malformed_motion_is_named(tmp_path, name, text, says):
    write_motions(tmp_path / "01")
    (tmp_path / "01" / name).write_text(text)
    with pytest.raises(ValueError, match=says):
        motion.read_clips(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("01_00.amc", motion_file(1, float("nan")), "lradius: expected .* got nan"),
        ("01_00.amc", motion_file(1, 1e30), "lradius: expected .* 1e.06, got 1e.30"),
        (
            "01.asf",
            skeleton_file().replace("1 0 0", "1 inf 0"),
            "lradius: expected numbers from -1e.06 to 1e.06, got inf",
        ),
        (
            "01.asf",
            skeleton_file().replace("0 0 90", "0 0 nan"),
            "head: expected numbers from -1e.06 to 1e.06, got nan",
        ),
    ],
)
def test_motion_that_nobody_makes_is_refused(tmp_path, name, text, says):
    write_motions(tmp_path / "01")
    (tmp_path / "01" / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name}: {says}"):
        motion.read_clips(tmp_path)


@pytest.mark.parametrize("packed", [True, False])
def test_a_motion_longer_than_any_is_refused(tmp_path, monkeypatch, packed):
    monkeypatch.setattr(motion, "MOST_BYTES", 5000)
    write_motions(tmp_path / "01")
    (tmp_path / "01/01_00.amc").write_text(motion_file(500, 90.0))
    if packed:
        with tarfile.open(tmp_path / "all.tar.gz", "w:gz") as archive:
            archive.add(tmp_path / "01", arcname="01")
        (tmp_path / "01/01_00.amc").unlink()
    where = "all.tar.gz: 01/01_00.amc" if packed else "01_00.amc"
    with pytest.raises(ValueError, match=f"{where}: expected at most 5000 bytes, got"):
        motion.read_clips(tmp_path)


@pytest.mark.parametrize("kind", ["gz", "xz", "bz2"])
def test_a_damaged_archive_is_named(tmp_path, kind):
    write_motions(tmp_path / "files/01", clips=9, root="1 2 3 4 5 6.789")
    path = tmp_path / "packed" / f"all.tar.{kind}"
    path.parent.mkdir()
    with tarfile.open(path, f"w:{kind}") as archive:
        archive.add(tmp_path / "files/01", arcname="01")
    content = path.read_bytes()
    for at in range(20, len(content) - 20, 40):
        damaged = content[:at] + bytes(byte ^ 0x55 for byte in content[at : at + 9])
        path.write_bytes(damaged + content[at + 9 :])
        says = rf"all.tar.{kind}: not a whole archive|01_\d+.amc: |01.asf: "
        with pytest.raises(ValueError, match=says):
            motion.read_clips(path.parent)


def test_a_damaged_header_is_not_the_end_of_an_archive(tmp_path):
    write_motions(tmp_path / "files/01", clips=3)
    (tmp_path / "packed").mkdir()
    path = tmp_path / "packed/all.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        archive.add(tmp_path / "files/01", arcname="01")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"01/01_01.amc", b"01/01_01.amd"))
    with pytest.raises(ValueError, match="all.tar: not a whole archive: a header is d"):
        motion.read_clips(path.parent)


def test_links_in_an_archive_are_no_motions(tmp_path):
    write_motions(tmp_path / "files/01")
    (tmp_path / "files/01/01_07.amc").symlink_to("01_07.amc")
    (tmp_path / "packed").mkdir()
    with tarfile.open(tmp_path / "packed/all.tar", "w") as archive:
        archive.add(tmp_path / "files/01", arcname="01")
    (clip,) = motion.read_clips(tmp_path / "packed")
    assert clip.name == "01_00"


def test_no_motion_or_no_skeleton_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"no \.amc file"):
        motion.read_clips(tmp_path)
    (tmp_path / "02_01.amc").write_text(motion_file(1, 0))
    with pytest.raises(ValueError, match=r"no \.asf file beside 02_01\.amc"):
        motion.read_clips(tmp_path)


def test_no_motion_is_in_two_splits():
    blank = np.zeros((1, len(motion.SEGMENTS), 3, 3))
    clips = [motion.Clip(f"{i:02d}", blank, blank[0, :, 0]) for i in range(28)]
    splits = {
        split: {clip.name for clip in people.split_clips(clips, split)}
        for split in ("train", "validation", "test")
    }
    assert sum(map(len, splits.values())) == 28 == len(set.union(*splits.values()))
    assert splits["test"] == {"07", "15", "23"}
    with pytest.raises(ValueError, match="at least 8 motions .* got 2"):
        people.split_clips(clips[:2], "test")


def test_stereo_is_noisier_far_away_blind_at_the_left_of_what_is_near_and_fat():
    """A plate 1 m away before a wall 4 m away; disparities by hand."""
    noise = active_stereo.Noise(
        baseline_m=0.05, disparity_px=0.1, window_px=2, unmatched=0.0, edges=0.0
    )
    depth = np.full((120, 212), 4.0)
    depth[30:90, 60:120] = 1.0
    dark = np.zeros(depth.shape, bool)
    measured = (
        active_stereo.measure(depth, dark, noise, 100.0, np.random.default_rng(0))
        / 1000
    )
    # Native pixels are a quarter as large: 400 of them are the focal length, and an
    # error of a tenth is z^2 / (400 * 0.05) / 10 metres.
    for z, part in ((1.0, np.s_[35:85, 65:110]), (4.0, np.s_[:, 140:200])):
        values = measured[part]
        assert abs(np.median(values) - z) < 0.05 * z
        assert np.std(values) == pytest.approx(z**2 * 0.005, rel=0.3)
    row = measured[60]
    assert (row[58:122] < 2).all()  # two pixels wider at either side
    assert (row[[50, 52, 124, 130]] > 3).all()
    # Disparities of 5 and 1.25 pixels: 3.75 of the wall, hence 3, are hidden.
    assert np.flatnonzero(row[48:130] == 0).tolist() == [7, 8, 9]
    swallowed = active_stereo.measure(
        depth, ~dark, noise, 100.0, np.random.default_rng(0)
    )
    assert np.mean(swallowed == 0) == pytest.approx(noise.dark, abs=0.05)


def test_time_of_flight_is_noisier_far_away_and_where_light_grazes():
    noise = time_of_flight.Noise(deviation_m=0.002, flying=0.0, edges=0.0, dark=1.0)
    rng = np.random.default_rng(0)
    depth = np.full((60, 80), 2.0, np.float32)
    dark = np.zeros(depth.shape, bool)
    dark[:, :20] = True
    depth[50:] = 0.0  # nothing
    # 2 cm deeper a row of 1.1 cm: the light grazes, so the readings are noisier.
    depth[:12] = 2.0 + 0.02 * np.arange(12)[::-1, None]
    measured = time_of_flight.measure(depth, dark, noise, 182.8, rng)
    wall = measured[15:45, 25:]
    assert abs(wall.mean() - 2000) < 2
    # 2 mm at 1 m, and four times that at 2 m.
    np.testing.assert_allclose(wall.std(), 8, rtol=0.1)
    assert (measured[15:45, :18] == 0).all() and (measured[52:] == 0).all()
    slope = measured[2:10, 25:] - 1000 * depth[2:10, 25:]
    assert 1.2 * wall.std() < slope.std() < 1.7 * wall.std()


def test_flying_pixels_lie_between_near_and_far():
    noise = time_of_flight.Noise(deviation_m=0.0, flying=1.0, edges=0.0)
    depth = np.full((20, 40), 3.0, np.float32)
    depth[:, 20:] = 2.0
    measured = time_of_flight.measure(
        depth, depth < 0, noise, 182.8, np.random.default_rng(0)
    )
    edge = measured[:, 19:21]
    assert ((edge > 2000) & (edge < 3000)).all()
    assert (measured[:, :18] == 3000).all() and (measured[:, 22:] == 2000).all()


def test_without_motion_capture_the_way_out_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="people/procedural needs no motion"):
        datasets.load("people", tmp_path / "nowhere", tmp_path, split="train")


def test_without_the_packages_the_requirements_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(people, "PACKAGES", ("no_such_package",))
    with pytest.raises(ValueError, match="needs no_such_package.*requirements-people"):
        datasets.load("people/tiny", None, tmp_path, split="train")


def test_mixed_data_sets_follow_each_other(tmp_path):
    name = "mannequin/tiny+mannequin/tiny"
    alone = datasets.load("mannequin/tiny", None, tmp_path, split="validation")
    twice = datasets.load(name, None, tmp_path, split="validation")
    assert len(twice.source) == 2 * len(alone.source) == 32
    for index in (0, 15):
        for place in (index, index + 16):
            assert twice.source[place]["frame"] == alone.source[index]["frame"]
    with pytest.raises(IndexError):
        twice.source[32]
    assert twice.name != alone.name
    some = datasets.load(name, None, tmp_path, split="validation", limit=4)
    assert [frame["frame"] for frame in some.source] == [
        twice.source[i]["frame"] for i in (0, 8, 16, 24)
    ]


@pytest.fixture(scope="module")
def figure():
    from datasets.people.figure import Figure

    return Figure()


@needs_anny
@warns
def test_a_pose_puts_limbs_where_the_rotations_say(figure):
    from datasets.people.figure import Pose
    from datasets.people.frames import REST_DIRECTIONS

    rotations = np.tile(np.eye(3), (len(motion.SEGMENTS), 1, 1))
    forwards = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # down becomes -y
    for segment in ("left_upper_arm", "left_forearm", "left_hand"):
        rotations[motion.SEGMENTS.index(segment)] = forwards
    sideways = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])  # down becomes -x
    rotations[motion.SEGMENTS.index("right_shin")] = sideways
    body = figure.sample_body(np.random.default_rng(0))
    (mesh,) = figure.pose(body, [Pose(rotations, REST_DIRECTIONS)])

    def along(start, end):
        way = mesh.joints[end] - mesh.joints[start]
        return way / np.linalg.norm(way)

    np.testing.assert_allclose(along("left_elbow", "left_wrist"), [0, -1, 0], atol=0.06)
    np.testing.assert_allclose(
        along("right_elbow", "right_wrist"), [0, 0, -1], atol=0.06
    )
    np.testing.assert_allclose(along("right_knee", "right_foot"), [-1, 0, 0], atol=0.03)
    np.testing.assert_allclose(along("left_knee", "left_foot"), [0, 0, -1], atol=0.03)
    np.testing.assert_allclose(mesh.vertices[:, 2].min(), 0, atol=1e-9)
    # Left is left: the person faces -y and x is to the left.
    assert mesh.joints["left_shoulder"][0] > 0 > mesh.joints["right_shoulder"][0]


@needs_anny
@warns
def test_clothes_lie_outside_the_skin(figure):
    import dataclasses

    from datasets.people.figure import Pose
    from datasets.people.frames import REST_DIRECTIONS

    rotations = np.tile(np.eye(3), (len(motion.SEGMENTS), 1, 1))
    body = figure.sample_body(np.random.default_rng(3))
    bare = dataclasses.replace(
        body, thickness=np.zeros_like(body.thickness), hem=0.0, hair=0.0
    )
    dressed = dataclasses.replace(bare, thickness=np.full_like(body.thickness, 0.02))
    areas = []
    for one in (bare, dressed):
        (mesh,) = figure.pose(one, [Pose(rotations, REST_DIRECTIONS)])
        corners = mesh.vertices[mesh.faces]
        # The volume under a closed surface, by its triangles' signed tetrahedra.
        areas.append(np.linalg.det(corners).sum() / 6)
    assert areas[1] > 1.2 * areas[0] > 0.02  # cubic metres


@needs_anny
@warns
def test_frames_are_labelled_where_the_body_is(figure):
    from datasets.people.frames import make_frames

    for skeleton in (BODY15, BODY19):
        offsets = []
        for example in make_frames(figure, [], skeleton, 5, "train", 0):
            depth = decode_depth(example)
            height, width = depth.shape
            joints_px = example["joints_px"]
            projected = camera_to_pixels(example["joints_m"], example["camera"])
            np.testing.assert_allclose(projected, joints_px, atol=1e-3)
            inside = (joints_px >= 0).all(1) & (joints_px < [width, height]).all(1)
            np.testing.assert_array_equal(example["visible"], inside)
            x, y = joints_px[inside].astype(int).T
            surface = depth[y, x] / 1000
            offsets.append((example["joints_m"][inside, 2] - surface)[surface > 0])
        behind = np.concatenate(offsets)
        # Within the body or hidden behind something nearer, hardly ever before it.
        assert 0 < np.median(behind) < 0.12
        assert (behind > -0.1).mean() > 0.9


@needs_anny
@warns
def test_a_stopped_generation_goes_on(tmp_path, monkeypatch):
    options = {"seed": 3, "captured": False, "validation": 1, "test": 1, "workers": 1}
    config = people.PeopleConfig(name="few", train=11, **options)

    def prepare(folder):
        builder = people.People(
            config=config, data_dir=folder, file_format="array_record"
        )
        builder.download_and_prepare()
        return builder.as_data_source("train", decoders=None)

    whole = prepare(tmp_path / "whole")
    made = []
    make_part = people.make_part

    def stops(part):
        if len(made) == 1 and not stopped:
            stopped.append(part)
            raise KeyboardInterrupt
        made.append(part.path.name)
        return make_part(part)

    stopped = []
    monkeypatch.setattr(people, "make_part", stops)
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "parts")
    assert made == ["train_00000.part"]
    parts = prepare(tmp_path / "parts")
    assert made.count("train_00000.part") == 1  # not made again
    assert len(parts) == len(whole) == 110
    for index in (0, 99, 109):
        for key in ("depth", "joints_m"):
            np.testing.assert_array_equal(parts[index][key], whole[index][key])
    assert not list((tmp_path / "parts" / "downloads").glob("people*"))


def made_up(*_):
    yield {"depth": b"PNG", "joints_m": np.ones((2, 3), np.float32), "frame": "a_0"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: b"",
        lambda content: content.replace(b"joints_m", b"joints_n"),
        lambda content: content.replace(b"\x80?", b"\x80@", 1),  # a 1 becomes 4
    ],
)
def test_a_damaged_part_is_refused_by_name(tmp_path, monkeypatch, damage):
    monkeypatch.setattr(people, "_figure", lambda: None)
    path = tmp_path / "train_00000.part"
    part = people.Part(path, "", "body15", 0, "train", range(1), made_up)
    assert people.make_part(part) == 1
    (frame,), (expected,) = people.read_part(path), made_up()
    assert (frame["depth"], frame["frame"]) == (b"PNG", "a_0")
    np.testing.assert_array_equal(frame["joints_m"], expected["joints_m"])
    path.write_bytes(damage(path.read_bytes()))
    match = "train_00000.part is damaged: delete it, and it is made again"
    with pytest.raises(ValueError, match=match):
        people.read_part(path)


@needs_anny
@warns
@pytest.mark.skipif(not HAS_BEAM, reason="apache-beam is not installed")
def test_beam_makes_the_same_frames(tmp_path):
    options = {"seed": 3, "captured": False, "validation": 1, "test": 1, "workers": 1}
    config = people.PeopleConfig(name="few", train=1, **options)
    sources = []
    for runner in (None, "DirectRunner"):
        builder = people.People(
            config=config, data_dir=tmp_path / str(runner), file_format="array_record"
        )
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(beam_runner=runner)
        )
        sources.append(builder.as_data_source("train"))
    here, by_beam = sources
    assert len(here) == len(by_beam) == 10
    for ours, theirs in zip(here, by_beam, strict=True):
        np.testing.assert_array_equal(ours["depth"], theirs["depth"])
        np.testing.assert_array_equal(ours["joints_m"], theirs["joints_m"])
