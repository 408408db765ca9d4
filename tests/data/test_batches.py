import dataclasses
import itertools

import cv2
import grain
import numpy as np
import pytest

from cmbjax.data import batches as batching
from cmbjax.data import recordings, views
from cmbjax.data.augment import Augmentation
from cmbjax.data.examples import DepthFrames, decode_depth, frame_name
from cmbjax.data.views import Preparation
from cmbjax.depth import crops, detector
from cmbjax.skeletons import BODY15
from tests.data.test_augment import STILL

CAMERA = np.array([200, 200, 80, 60], np.float32)
PREPARATION = Preparation(side=32, crop="label_box", depth_range=1000.0)


def make_example(index, **changes):
    """A figure at 2.0 m + 1 cm a frame in front of a wall at 4 m, 120 x 160."""
    rng = np.random.default_rng(index)
    depth = np.full((120, 160), 4000, np.uint16)
    depth[20:110, 60:100] = 2000 + 10 * index
    joints_px = rng.uniform([62, 25], [98, 105], (15, 2)).astype(np.float32)
    joints_px[0], joints_px[14] = (80, 25), (80, 105)
    # The neck above the hips.
    joints_px[1], joints_px[9:11] = rng.uniform((75, 30), (85, 40)), (80, 95)
    z = np.full((15, 1), 2.05 + 0.01 * index)
    joints_m = np.concatenate([(joints_px - CAMERA[2:]) / CAMERA[:2] * z, z], axis=1)
    example = {
        "depth": cv2.imencode(".png", depth)[1].tobytes(),
        "joints_px": joints_px,
        "joints_m": joints_m.astype(np.float32),
        "visible": np.arange(15) != 4,
        "camera": CAMERA,
        "frame": f"frame {index}".encode(),
        "subject": b"",
    }
    return {**example, **changes}


def make_frames(source, **changes):
    options = {
        "skeleton": BODY15,
        "metric": True,
        "name": "figures",
        "depth_range": 1000.0,
        "findable": True,
    }
    return DepthFrames(source=source, **{**options, **changes})


FRAMES = make_frames([make_example(i) for i in range(7)])


def batches(frames=FRAMES, seed=0, augmentation=None, **options):
    return batching.training_batches(
        frames,
        preparation=PREPARATION,
        augmentation=augmentation or Augmentation(),
        **{"batch_size": 3, "seed": seed, **options},
    )


def test_training_view_by_hand():
    view = views.training_view(
        make_example(5),
        np.random.default_rng(0),
        preparation=PREPARATION,
        augmentation=STILL,
        skeleton=BODY15,
    )
    # The person is at 2.05 m, the joints 5 cm behind, the wall out of the range.
    assert set(np.unique(view["depth"])) == {0.0, 1.0}
    np.testing.assert_allclose(view["joints_z"], 0.05, atol=1e-3)
    # Head and foot are 80 px apart; the body's box is 16 % longer, the crop 15 % more.
    scale = 32 / (80 * 1.16 * 1.15)
    np.testing.assert_allclose(
        view["joints_px"][14] - view["joints_px"][0], [0, 80 * scale], atol=1e-3
    )
    # Where the figure is, the joints are.
    columns, rows = np.floor(view["joints_px"]).astype(int).T
    assert (view["depth"][rows, columns, 0] == 0).all()


def test_mirrored_view_swaps_left_and_right():
    flips = Augmentation(
        rotation_deg=0, scale=0, shift=0, reference=0, noise=0, holes=0
    )

    def view(seed, augmentation):
        rng = np.random.default_rng(seed)
        return views.training_view(
            make_example(1),
            rng,
            preparation=PREPARATION,
            augmentation=augmentation,
            skeleton=BODY15,
        )

    plain = view(0, STILL)
    flipped = [view(seed, flips) for seed in range(8)]
    mirrored = [v for v in flipped if (v["joints_px"] != plain["joints_px"]).any()]
    assert 0 < len(mirrored) < 8
    order = list(BODY15.mirror)
    expected = plain["joints_px"][order] * [-1, 1] + [32, 0]
    np.testing.assert_allclose(mirrored[0]["joints_px"], expected, atol=1e-3)
    # Joint 4, the right elbow, is not visible; mirrored it is the left one.
    assert np.flatnonzero(~mirrored[0]["visible"]).tolist() == [5]
    np.testing.assert_array_equal(mirrored[0]["depth"], plain["depth"][:, ::-1])


def recorded(lengths=(4, 3), shuffled=(5, 0, 6, 2, 1, 4, 3)):
    """Frames of two subjects, which lie in the source in another order."""
    subjects = [b"a"] * lengths[0] + [b"b"] * lengths[1]
    source = [make_example(i, subject=s) for i, s in enumerate(subjects)]
    return make_frames([source[i] for i in shuffled])


def test_recordings_are_a_subjects_frames_by_name():
    frames = recorded()
    names = [
        [frame_name(frames.source[i]) for i in sequence]
        for sequence in recordings.recordings(frames.source)
    ]
    assert names == [
        [f"frame {i}" for i in range(4)],
        [f"frame {i}" for i in (4, 5, 6)],
    ]


def test_frames_follow_on_one_another_by_number():
    """As cameras write them who do not pad: 10 comes after 9."""
    names = [f"depth_{i}.png" for i in (10, 9, 1, 11, 2)]
    source = [make_example(0, frame=name.encode()) for name in names]
    ((*order,),) = recordings.recordings(source)
    assert [names[i] for i in order] == [f"depth_{i}.png" for i in (1, 2, 9, 10, 11)]


def test_clips_repeat_the_first_and_the_last_frame_by_hand():
    around = recordings.clips([[7, 3, 5], [1]], 5)
    assert around == {
        7: [7, 7, 7, 3, 5],
        3: [7, 7, 3, 5, 5],
        5: [7, 3, 5, 5, 5],
        1: [1, 1, 1, 1, 1],
    }


def test_streams_go_on_from_batch_to_batch():
    sequences = [
        list(range(10 * k, 10 * k + length)) for k, length in enumerate([4, 5, 3])
    ]
    streams = recordings.Streams(sequences, batch_size=2, seed=0)
    epoch = [[streams[2 * t + b] for t in range(6)] for b in range(2)]
    for stream in epoch:
        assert stream[0].starts
        for (before, *_), (frame, starts, _) in zip(stream, stream[1:], strict=False):
            assert starts == (frame % 10 == 0)
            assert starts or frame == before + 1
    assert sorted(place.frame for stream in epoch for place in stream) == sorted(
        frame for sequence in sequences for frame in sequence
    )
    # The next epoch has another order, the same seed the same one.
    again = recordings.Streams(sequences, batch_size=2, seed=0)
    orders = {tuple(again[12 * epoch + i][0] for i in range(12)) for epoch in range(6)}
    assert len(orders) > 1 and [again[i] for i in range(12)] == [
        streams[i] for i in range(12)
    ]
    with pytest.raises(ValueError, match="--batch_size must be at most 12, .* got 13"):
        recordings.Streams(sequences, batch_size=13, seed=0)


def test_several_frames_of_a_stream_in_a_batch_by_hand():
    sequences = [list(range(5)), list(range(10, 14))]
    streams = recordings.Streams(sequences, batch_size=4, seed=0, steps=2)
    places = [streams[i] for i in range(8)]
    # Two streams of four frames; the fifth of the first recording is left over.
    batches = [[place.frame for place in places[i : i + 4]] for i in (0, 4)]
    first, second = ([0, 1], [2, 3]), ([10, 11], [12, 13])
    either = [[a[0] + b[0], a[1] + b[1]] for a, b in ((first, second), (second, first))]
    assert batches in either
    assert [place.starts for place in places] == [True, False] * 2 + [False] * 4
    assert places[0].sequence == places[1].sequence == places[4].sequence
    assert places[0].sequence != places[2].sequence


def test_a_recording_longer_than_a_stream_is_cut_into_sequences_of_its_own():
    """As K2HPD's, which names no subject: 26 frames in two streams of 12."""
    streams = recordings.Streams([list(range(26))], batch_size=4, seed=0, steps=2)
    places = [streams[i] for i in range(24)]
    for stream in (0, 1):
        of_stream = [
            place for i in range(6) for place in places[4 * i + 2 * stream :][:2]
        ]
        sequences = {place.sequence for place in of_stream}
        assert of_stream[0].starts and len(sequences) <= 2
        for one, two in itertools.pairwise(of_stream):
            assert two.starts or two.frame == one.frame + 1
            assert two.starts == (one.sequence != two.sequence)
    # Its pieces start with frames 0, 12 and 24, and no two of them have one view.
    pieces = {(place.frame // 12, place.sequence) for place in places}
    assert len(pieces) == len({sequence for _, sequence in pieces}) in (2, 3)


def test_the_streams_of_one_long_recording_are_seen_in_views_of_their_own():
    stays = make_example(1)
    frames = make_frames([{**stays, "frame": f"frame {i}".encode()} for i in range(64)])
    view = {"augmentation": Augmentation(noise=0.0, holes=0), "batch_size": 8}
    data = batches(frames, sequential=True, **view)
    first, second = (next(data)["joints_px"] for _ in range(2))
    np.testing.assert_allclose(first, second)  # each stream goes on as it began
    assert len(np.unique(first.round(3), axis=0)) == 8


def test_a_recording_is_seen_in_one_view():
    """Mirrored, turned and shifted alike from frame to frame, and not so stills."""
    stays = make_example(1, subject=b"a")
    frames = make_frames([{**stays, "frame": f"frame {i}".encode()} for i in range(6)])
    view = {"augmentation": Augmentation(noise=0.0, holes=0), "batch_size": 2}
    data = batches(frames, sequential=True, stream_frames=2, **view)
    for _ in range(4):
        one, two = next(data)["joints_px"]
        np.testing.assert_allclose(one, two)
    one, two = next(batches(frames, **view))["joints_px"]
    assert np.abs(one - two).max() > 1


def test_a_frame_without_a_label_is_seen_as_its_recording_is():
    labelled = make_example(1, subject=b"a", frame=b"frame 0")
    bare = {"frame": b"frame 1", "visible": np.zeros(15, bool)}
    frames = make_frames([labelled, labelled | bare])
    view = {"augmentation": Augmentation(noise=0.0, holes=0), "batch_size": 2}
    for seed in range(12):
        data = batches(frames, seed, sequential=True, stream_frames=2, **view)
        one, two = next(data)["joints_px"]
        # Mirrored or not, a pair of joints lies the same way round.
        side = one[2:4, 0] - one[[3, 2], 0]
        other = two[2:4, 0] - two[[3, 2], 0]
        assert (np.sign(side) == np.sign(other)).all()


def test_recordings_are_dealt_out_whole_by_hand():
    batches, first = recordings.in_streams([[1, 2], [3, 4, 5], [6], [7, 8]], 2)
    # Longest first, each to the stream that is shortest: 3 4 5 6 and 1 2 7 8.
    assert batches == [[3, 1], [4, 2], [5, 7], [6, 8]]
    assert first == {1, 3, 6, 7}
    # A stream that ends early, and an empty one.
    assert recordings.in_streams([[1, 2], [4]], 2) == ([[1, 4], [2]], {1, 4})
    assert recordings.in_streams([[1]], 2) == ([[1]], {1})


def test_a_recording_longer_than_a_stream_is_cut_by_hand():
    batches, first = recordings.in_streams([list(range(8))], 3)
    # 8 frames in 3 streams: none is longer than 3.
    assert batches == [[0, 3, 6], [1, 4, 7], [2, 5]]
    assert first == {0, 3, 6}


@pytest.mark.parametrize("num_frames", [1, 3])
def test_a_share_of_one_long_recording_is_of_its_pieces(num_frames):
    frames = recorded(lengths=(40, 0), shuffled=range(40))
    data = batching.training_batches(
        frames,
        preparation=dataclasses.replace(PREPARATION, num_frames=num_frames),
        augmentation=STILL,
        batch_size=4,
        seed=0,
        share=0.2,
        sequential=num_frames == 1,
    )
    # No two figures have their second joint at the same place.
    seen = np.concatenate([next(data)["joints_px"][:, 1] for _ in range(12)])
    assert len(np.unique(seen, axis=0)) == 8


def test_a_share_of_one_long_recording_has_batches_of_its_streams():
    frames = recorded(lengths=(40, 0), shuffled=range(40))
    options = {"augmentation": STILL, "batch_size": 4, "share": 0.2}
    data = batches(frames, sequential=True, stream_frames=4, **options)
    seen = [next(data)["joints_px"][:, 1] for _ in range(6)]
    assert len(np.unique(np.concatenate(seen), axis=0)) == 8


def test_sequential_batches_say_where_sequences_start_and_can_be_resumed():
    frames = recorded()
    data = batches(frames, sequential=True, augmentation=STILL)
    first, second = next(data), next(data)
    position = data.get_state()
    third = next(data)
    assert first["starts"].all() and not second["starts"].all()
    data = batches(frames, sequential=True, augmentation=STILL)
    data.set_state(position)
    np.testing.assert_array_equal(next(data)["joints_px"], third["joints_px"])


def test_clip_is_seen_as_its_middle_frame_is():
    preparation = dataclasses.replace(PREPARATION, num_frames=3)
    frames = recorded()
    data = batching.training_batches(
        frames, preparation=preparation, augmentation=STILL, batch_size=7, seed=0
    )
    batch = next(data)
    assert batch["depth"].shape == (7, 32, 32, 3)
    np.testing.assert_array_equal(batch["frames_joints_px"][:, 1], batch["joints_px"])
    np.testing.assert_array_equal(batch["frames_visible"][:, 1], batch["visible"])
    # A frame is 1 cm further away than the one before, and depth is in metres.
    person = np.array(
        [[np.min(one[..., i]) for i in range(3)] for one in batch["depth"]]
    )
    steps = np.rint(100 * np.diff(person, axis=1)).astype(int)
    whole, starts, ends = [1, 1], [0, 1], [1, 0]
    assert sorted(steps.tolist()) == sorted(
        [starts, whole, whole, ends, starts, whole, ends]
    )
    (loaded,) = batching.evaluation_batches(
        frames, preparation=preparation, batches=[[0, 1]]
    )
    assert loaded.views["depth"].shape == (2, 32, 32, 3)
    # Frame 5 is between 4 and 6, frame 0 the first one.
    for view, expected in zip(
        loaded.views["depth"], ([-0.01, 0, 0.01], [0, 0, 0.01]), strict=True
    ):
        np.testing.assert_allclose(view.min(axis=(0, 1)), expected, atol=1e-4)


def test_the_clip_of_a_still_is_the_still_again():
    """Frames of one subject are no neighbours in time unless they were recorded."""
    source = [make_example(i) for i in range(5)]
    preparation = dataclasses.replace(PREPARATION, num_frames=3)
    for recorded in (True, False):
        frames = make_frames(source, recorded=recorded)
        data = batching.training_batches(
            frames, preparation=preparation, augmentation=STILL, batch_size=5, seed=0
        )
        depth = next(data)["depth"]
        same = (depth == depth[..., 1:2]).all()
        assert bool(same) != recorded
        (loaded,) = batching.evaluation_batches(
            frames, preparation=preparation, batches=[range(5)]
        )
        depth = loaded.views["depth"]
        assert bool((depth == depth[..., 1:2]).all()) != recorded


def test_a_batch_of_one_frame_and_a_frame_a_process():
    assert len(next(batches(batch_size=1))["depth"]) == 1
    for index in range(2):
        processes = grain.sharding.ShardOptions(index, 2)
        part = next(batches(batch_size=2, processes=processes))
        whole = next(batches(batch_size=2))
        np.testing.assert_array_equal(part["depth"][0], whole["depth"][index])


def test_order_and_views_depend_on_the_seed_alone():
    def first(seed):
        return next(batches(seed=seed))

    for key, value in first(0).items():
        np.testing.assert_array_equal(value, first(0)[key])
    assert (first(0)["joints_px"] != first(1)["joints_px"]).any()


def test_every_epoch_shows_every_frame_once_in_another_order():
    def frames_of(iterator, count):
        steps = []
        for _ in range(count):
            z = next(iterator)["joints_z"]  # wants the frame's own number
            steps.append(z)
        return steps

    source = [
        make_example(i, joints_m=np.full((15, 3), 2 + 0.02 * i, np.float32))
        for i in range(6)
    ]
    frames = make_frames(source)
    z = np.concatenate(frames_of(batches(frames, augmentation=STILL), 6))[:, 0]
    # Normalised: 2000 + 20 * number - 2000 - 10 * number, over 1000.
    numbers = np.rint(100 * z).astype(int)
    epochs = numbers.reshape(3, 6)
    assert (np.sort(epochs, axis=1) == np.arange(6)).all()
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_resumed_iterator_gives_the_very_next_batches():
    iterator = batches()
    for _ in range(4):
        next(iterator)
    position = iterator.get_state()
    expected = [next(iterator) for _ in range(3)]
    resumed = batches()
    resumed.set_state(position)
    for batch in expected:
        for key, value in next(resumed).items():
            np.testing.assert_array_equal(value, batch[key])


def test_share_uses_that_part_of_the_frames_and_always_the_same():
    source = [
        make_example(i, joints_m=np.full((15, 3), 2 + 0.02 * i, np.float32))
        for i in range(7)
    ]
    frames = make_frames(source)

    def numbers(seed):
        iterator = batches(frames, seed=seed, augmentation=STILL, share=0.3)
        z = np.concatenate([next(iterator)["joints_z"] for _ in range(4)])[:, 0]
        return set(np.rint(100 * z).astype(int).tolist())

    assert len(numbers(0)) == 2
    assert numbers(0) == numbers(0)


def test_evaluation_shows_every_frame_once_and_in_order():
    loaded = list(
        batching.evaluation_batches(
            FRAMES, preparation=PREPARATION, batches=[[0, 1, 2], [3, 4, 5], [6]]
        )
    )
    assert [len(batch.examples) for batch in loaded] == [3, 3, 1]
    assert [batch.indices for batch in loaded] == [[0, 1, 2], [3, 4, 5], [6]]
    names = [frame_name(e) for batch in loaded for e in batch.examples]
    assert names == [f"frame {i}" for i in range(7)]
    references = np.concatenate([batch.views["reference"] for batch in loaded])
    np.testing.assert_array_equal(references, 2000 + 10 * np.arange(7))
    assert [int(depth[50, 80]) for batch in loaded for depth in batch.depths] == [
        2000 + 10 * i for i in range(7)
    ]


def evaluation_view(example, preparation):
    depth = decode_depth(example)
    return views.evaluation_view(
        example, depth, preparation=preparation, skeleton=BODY15, metric=True
    )


@pytest.mark.parametrize("crop", ["full", "label_box", "person"])
def test_crop_pixels_lead_back_to_the_frame(crop, monkeypatch):
    box = np.array([58.0, 17, 103, 112], np.float32)
    found = detector.Person(box, box, 2010.0, 0.9, np.array([0.0, -1]))
    monkeypatch.setattr(detector, "shipped", lambda _: lambda depth, **_: [found])
    preparation = Preparation(side=64, crop=crop, depth_range=1000.0)
    example = make_example(2)
    view = evaluation_view(example, preparation)
    corner = (
        np.argwhere(view["depth"][..., 0] == 0).min(axis=0)[::-1].astype(np.float32)
    )
    found = crops.transform_points(view["frame_from_crop"], corner[None])
    scale = np.abs(view["frame_from_crop"][0, 0])
    np.testing.assert_allclose(found[0], [60, 20], atol=scale)


def test_the_label_says_whose_depth_it_is_unless_it_is_withheld():
    """A box 1 m away covers the lower half of a figure at 2 m."""
    depth = decode_depth(make_example(0))
    depth[60:] = 1000
    png = cv2.imencode(".png", depth)[1].tobytes()
    covered = make_example(0, depth=png)
    assert evaluation_view(covered, PREPARATION)["reference"] == 2000
    withheld = dataclasses.replace(PREPARATION, label_depth=False)
    assert evaluation_view(covered, withheld)["reference"] == 1000


def test_full_crop_is_the_letterboxed_frame():
    preparation = Preparation(side=16, crop="full", depth_range=1000.0)
    view = evaluation_view(make_example(0), preparation)
    # 160 px become 16; the 120 rows are centred, 2 rows of holes above and below.
    corners = np.array([[0, 2], [16, 14]], np.float32)
    frame = crops.transform_points(view["frame_from_crop"], corners)
    np.testing.assert_allclose(frame, [[0, 0], [160, 120]], atol=1e-3)


def test_without_a_unit_training_and_evaluation_have_one_reference(monkeypatch):
    """The detector's depth is that of the wall as well; the person's is asked for."""
    example = make_example(0, joints_m=np.full((15, 3), np.nan, np.float32))
    box = views.label_box(example, decode_depth(example))
    up = np.array([0, -1], np.float32)
    person = detector.Person(box, box, 3000.0, 0.9, up)
    monkeypatch.setattr(detector, "shipped", lambda what: lambda *a, **k: [person])
    preparation = dataclasses.replace(PREPARATION, crop="person")
    depth = decode_depth(example)
    seen = views.evaluation_view(
        example, depth, preparation=preparation, skeleton=BODY15, metric=False
    )
    trained = views.training_view(
        example,
        np.random.default_rng(0),
        preparation=preparation,
        augmentation=STILL,
        skeleton=BODY15,
    )
    assert seen["reference"] == 2000
    np.testing.assert_allclose(trained["depth"], seen["depth"], atol=1e-6)


def test_whether_there_are_depths_to_learn_from():
    nothing = np.full((15, 3), np.nan, np.float32)
    without = [make_example(i, joints_m=nothing) for i in range(3)]
    assert not make_frames(without).have_depths
    assert make_frames([*without, make_example(4)]).have_depths
    assert not make_frames([make_example(4)], metric=False).have_depths


def test_frame_without_a_person_is_looked_at_as_a_whole_and_said_so():
    wall = cv2.imencode(".png", np.full((120, 160), 4000, np.uint16))[1].tobytes()
    preparation = Preparation(side=16, crop="person", depth_range=1000.0)
    view = evaluation_view(make_example(0, depth=wall), preparation)
    assert not view["is_found"]
    np.testing.assert_allclose(np.diag(view["frame_from_crop"]), [10, 10], rtol=1e-5)


def test_truncated_png_names_the_frame():
    example = make_example(3)
    broken = {**example, "depth": example["depth"][:50]}
    with pytest.raises(ValueError, match=r"frame 3: the depth must be .* got no image"):
        decode_depth(broken)


def test_eight_bit_png_names_the_frame_and_what_came():
    png = cv2.imencode(".png", np.zeros((4, 6), np.uint8))[1].tobytes()
    with pytest.raises(ValueError, match=r"frame 3: .* got \[4, 6\] uint8"):
        decode_depth(make_example(3, depth=png))


def test_empty_split_is_refused():
    with pytest.raises(ValueError, match="training split has no frames"):
        batches(make_frames([]))
