"""export.py from end to end: files that run without cmbjax, and give what it gives."""

import dataclasses
import functools
import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import datasets
import evaluate
import export
import train
from cmbjax.data.augment import Augmentation
from cmbjax.evaluate import predictions
from cmbjax.export import card, formats
from cmbjax.files import only_one
from cmbjax.models import fast
from cmbjax.predict import runtimes
from cmbjax.predict.card import (
    INT8_FILE,
    ONNX_FILE,
    STABLEHLO_FILE,
    WEIGHTS,
    write_card,
)
from cmbjax.skeletons import BODY15
from cmbjax.train.config import TrainConfig
from cmbjax.train.run import Run
from tests import fabricate

ROOT = Path(__file__).parents[2]
NETWORK = {"side": 32, "width": 0.125, "head3d": "dense", "r_switch_step": 0}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    fabricate.itop(folder / "source")
    source = {"data_dir": folder / "source", "tfds_dir": folder / "tfds"}
    train.main(
        TrainConfig(
            dataset="itop",
            run_dir=folder / "run",
            batch_size=2,
            num_steps=2,
            **source,
            **NETWORK,
        )
    )
    return folder / "run"


@pytest.fixture(scope="module")
def trained(run_dir):
    """The network, its variables, and two batches: a frame, and the frame mirrored."""
    run = Run.open(run_dir)
    model, state = run.restore()
    config = run.config
    frames = datasets.load("itop", config.data_dir, config.tfds_dir, split="test")
    (depth,) = export.depth_batches(frames, config.make_preparation(frames), 1, 1)
    return model, state.variables, np.stack([depth, depth[:, :, ::-1]])


@pytest.fixture(scope="module", params=["frozen", "rolling"])
def exported(request, run_dir):
    for package in ("jax2onnx", "onnx", "onnxruntime"):
        pytest.importorskip(package)
    return export.main(export.ExportConfig(run_dir=run_dir, memory=request.param))


def code_for(folder, title):
    """The lines that the card gives for a runtime."""
    text = (folder / "README.md").read_text()
    return re.search(rf"## {title}\n\n```python\n(.*?)```", text, re.DOTALL)[1]


def expected_of(network, trained, folder):
    """What a function of the depth, or of depth and memory, gives for two batches."""
    _, variables, batches = trained
    if folder.name.startswith("frozen"):
        return [jax.tree.leaves(network(depth)) for depth in batches]
    memory, steps = variables["memory"], []
    for depth in batches:
        outputs, memory = network(depth, memory)
        steps.append([*jax.tree.leaves(outputs), *jax.tree.leaves(memory)])
    return steps


def apply(trained, folder):
    model, variables, _ = trained

    apply = functools.partial(model.apply, train=False, r=3.0, method="outputs")

    def frozen(depth):
        return apply(variables, depth)

    def rolling(depth, memory):
        with_memory = {**variables, "memory": memory}
        outputs, new = apply(with_memory, depth, mutable=["memory"])
        return outputs, new["memory"]

    return jax.jit(frozen if folder.name.startswith("frozen") else rolling)


def assert_close(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert np.abs(one - other).max() <= 1e-4 * np.ptp(other)


def test_stablehlo_runs_with_jax_alone_and_is_equal_bit_for_bit(
    exported, trained, tmp_path
):
    code = code_for(exported, "JAX")
    last = code.splitlines()[-1]
    rolling = "memory" in last
    np.save(tmp_path / "batches.npy", trained[2])
    found = "[heatmaps, joints" + ", *memory" * rolling + "]"
    script = f"""
import sys
import numpy as np
depth, second = np.load({str(tmp_path / "batches.npy")!r})
{code}
first = {found}
depth = second
{last}
np.savez({str(tmp_path / "found.npz")!r}, *first, *{found})
assert not {{"cmbjax", "flax"}} & set(sys.modules)
"""
    environment = fabricate.environment()
    subprocess.run(
        [sys.executable, "-c", script], cwd=exported, env=environment, check=True
    )
    with np.load(tmp_path / "found.npz") as file:
        found = list(file.values())
    model, variables, _ = trained
    make = fast.roll if rolling else fast.freeze
    folded = jax.jit(make(model, variables, r=3.0, form=fast.FAST))
    equal = [x for step in expected_of(folded, trained, exported) for x in step]
    assert len(found) == len(equal) == (10 if rolling else 4)
    for one, other in zip(found, equal, strict=True):
        np.testing.assert_array_equal(one, other)
    close = expected_of(apply(trained, exported), trained, exported)
    assert_close(found, [x for step in close for x in step])


@pytest.mark.parametrize("title", ["ONNX Runtime", "OpenVINO"])
def test_onnx_runs_as_the_card_says(exported, trained, title, monkeypatch):
    if title == "OpenVINO":
        monkeypatch.setitem(sys.modules, "openvino_telemetry", None)
        pytest.importorskip("openvino")
    monkeypatch.chdir(exported)
    code = code_for(exported, title)
    first, second = expected_of(apply(trained, exported), trained, exported)
    names = {"depth": trained[2][0]}
    exec(code, names)
    assert_close([names["heatmaps"], names["joints"]], first[:2])
    if "memory" in code:
        names["depth"] = trained[2][1]
        lines = code.splitlines()
        (call,) = (i for i, line in enumerate(lines) if "heatmaps" in line)
        exec("\n".join(lines[call:]), names)
        assert_close([names["heatmaps"], names["joints"]], second[:2])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 'cmbjax.Predictor(".")'),
        (
            {"files": {"weights.npz": {"bytes": 1, "sha256": "0"}}},
            'cmbjax.Predictor(".", backend="jax")',
        ),
        ({"batch_size": 4}, 'cmbjax.Predictor(".", backend="jax")'),
        ({"memory": "rolling"}, 'cmbjax.Predictor(".", memory="rolling")'),
        ({"crop": "label_box"}, 'cmbjax.load(".")'),
        ({"depth_unit": "raw"}, 'cmbjax.load(".")'),
    ],
)
def test_what_the_text_says_of_the_weights_goes_with_the_card(changes, expected):
    folder = WEIGHTS / "people-96"
    about = json.loads((folder / "card.json").read_text())
    assert expected in card.markdown(about | changes)


def test_the_texts_own_code_of_the_weights_runs(tmp_path, monkeypatch):
    """A network of label boxes, which is asked for a batch."""
    shutil.copytree(WEIGHTS / "people-96", tmp_path, dirs_exist_ok=True)
    about = json.loads((tmp_path / "card.json").read_text()) | {"crop": "label_box"}
    write_card(tmp_path, about)
    (tmp_path / "README.md").write_text(card.markdown(about))
    monkeypatch.chdir(tmp_path)
    names = {"depth": np.ones((1, 96, 96, 1), np.float32)}
    exec(code_for(tmp_path, "cmbjax"), names)
    assert names["outputs"].heatmaps.shape == (1, 48, 48, 15)


def test_a_file_is_no_folder_to_export_to(tmp_path):
    file = tmp_path / "thesis.onnx"
    file.write_text("years of work")
    with (
        pytest.raises(
            ValueError, match=r"thesis\.onnx must be a folder, and is a file"
        ),
        card.whole_folder(file),
    ):
        pass
    assert file.read_text() == "years of work"
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real").mkdir()
    with card.whole_folder(tmp_path / "link") as folder:
        (folder / "card.json").write_text("{}")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real/card.json").exists()


def test_onnx_is_standard_and_does_not_transpose_around_each_convolution(exported):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exported / "network.onnx")
    assert [x.domain for x in model.opset_import] == [""]
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("ConvTranspose") == 2 and kinds.count("MaxPool") == 3
    assert not {"Einsum", "MatMul", "Resize", "BatchNormalization"} & set(kinds)
    # The input, the heat maps, the 3-D head's pooling; the memory of each of 3 blocks.
    rolling = exported.name.startswith("rolling")
    assert kinds.count("Transpose") <= 4 + 15 * rolling < kinds.count("Conv")


@pytest.mark.parametrize("file", [ONNX_FILE, STABLEHLO_FILE])
def test_evaluation_asks_a_frozen_network_in_a_file(
    exported, run_dir, tmp_path, monkeypatch, file
):
    asked = evaluate.EvalConfig(
        run_dir=run_dir,
        metric="joint_error",
        crop="label_box",
        out_dir=tmp_path / "asked",
    )
    in_file = dataclasses.replace(asked, network=exported / file)
    if exported.name.startswith("rolling"):
        with pytest.raises(ValueError, match="is a rolling network of .* expected a f"):
            evaluate.main(in_file)
        return
    expected = evaluate.main(asked)["mean error mm"]["Full Body"]
    monkeypatch.setattr(predictions, "apply_frozen", None)
    found = evaluate.main(in_file)["mean error mm"]["Full Body"]
    np.testing.assert_allclose(found, expected, rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("absent.onnx", FileNotFoundError, "absent.onnx is not there; export.py"),
        ("network.bin", ValueError, "neither a network.onnx nor a network.stablehlo"),
    ],
)
def test_file_that_is_no_network_is_refused(tmp_path, name, error, message):
    (tmp_path / "network.bin").touch()
    with pytest.raises(error, match=message):
        runtimes.open_network(tmp_path / name, ["heatmaps"])


def test_card_has_the_numbers_that_were_measured_of_this_step(tmp_path):
    table = {"PCKh@0.5": {"Head": 1.0, "Full Body": 93.75, "floor": 2.0, "ceiling": 3}}
    keys = dict.fromkeys(("frames", "crop", "memory", "decode", "person_found"), "x")
    for name, step, network in (
        ("this", 7, "checkpoint"),
        ("older", 6, "checkpoint"),
        ("exported", 7, "network.onnx"),
        ("earlier version", 7, "checkpoint"),
    ):
        results = {"step": step, "network": network, "num_frames": 9, "table": table}
        if name != "earlier version":
            results["overall_row"] = "Full Body"
        folder = tmp_path / "evaluations" / name
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps(results | keys))
    (one,) = card.of_evaluations(tmp_path, 7)
    assert one == keys | {"num_frames": 9, "metrics": {"PCKh@0.5": 93.8}}


def test_command_names_what_differs_from_the_defaults():
    run = TrainConfig(
        run_dir=Path("runs/x"),
        trunk_norm=False,
        learning_rate=0.002,
        augmentation=Augmentation(flip=False, holes=0),
        data_dir=Path("/somewhere"),
    )
    assert card.command(run) == (
        "python train.py --run_dir=runs/x --no_trunk_norm --learning_rate=0.002 "
        "--augmentation.no_flip --augmentation.holes=0"
    )


def test_network_in_a_file_does_not_roll(tmp_path):
    with pytest.raises(ValueError, match="--network is frozen, got --memory=rolling"):
        evaluate.EvalConfig(network=tmp_path / ONNX_FILE, memory="rolling")


def test_card_says_what_a_user_must_know(exported, run_dir):
    about = json.loads((exported / "card.json").read_text())
    assert about["joints"][:2] == ["head", "neck"] and about["r"] == 3
    assert (about["side"], about["stride"], about["dtype"]) == (32, 2, "float32")
    assert (about["crop"], about["depth_range"]) == ("person", 1000)
    assert about["frames"]["number"] == 3  # all that the validation split has
    assert about["inputs"]["depth"] == [1, 32, 32, 1]
    assert about["outputs"]["heatmaps"] == [1, 16, 16, 15]
    stored = Run.open(run_dir).statistics
    assert about["format"] == 2 and about["network"] == {
        "name": "cmb",
        "num_joints": 15,
        "width": 0.125,
        "head3d": "dense",
        "memory_mode": "shared",
        "trunk_norm": True,
    }
    np.testing.assert_allclose(about["offsets_m"], stored.offsets_m)
    memory = {"memory.npz"} if about["memory"] == "rolling" else set()
    written = {"weights.npz", "network.stablehlo", "network.onnx"}
    assert set(about["files"]) == written | memory
    assert about["command"] == (
        f"python train.py --dataset=itop --run_dir={run_dir} --width=0.125 "
        "--head3d=dense --side=32 --batch_size=2 --num_steps=2 --r_switch_step=0"
    )
    assert about["config"]["data_dir"] is about["config"]["run_dir"] is None
    assert about["trained_on"] == stored.frames
    for name, facts in about["files"].items():
        content = (exported / name).read_bytes()
        assert facts["sha256"] == hashlib.sha256(content).hexdigest()
        assert facts["bytes"] == len(content)
    assert max(about["differences"][x] for x in ("StableHLO", "ONNX Runtime")) < 1e-5
    assert set(memory) | {"card.json", "README.md", *about["files"]} == {
        path.name for path in exported.iterdir()
    }


def test_export_that_disagrees_leaves_nothing(run_dir, tmp_path, monkeypatch):
    config = export.ExportConfig(
        run_dir=run_dir, format="stablehlo", num_frames=2, out_dir=tmp_path / "out"
    )
    export.main(config)
    before = (tmp_path / "out/card.json").read_text()
    monkeypatch.setattr(formats, "TOLERANCE", 0.0)
    with pytest.raises(ValueError, match="StableHLO differs from the trained network"):
        export.main(config)
    open_network = runtimes.open_network

    def slightly_wrong(path, names):
        run = open_network(path, names)
        return lambda inputs: {k: np.nextafter(x, 9) for k, x in run(inputs).items()}

    monkeypatch.setattr(runtimes, "open_network", slightly_wrong)
    with pytest.raises(ValueError, match="StableHLO must equal .* bit for bit"):
        export.main(config)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out/card.json").read_text() == before


def test_folder_that_is_not_an_export_is_not_replaced(run_dir, tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="earlier export, but holds thesis.tex"):
        export.main(
            export.ExportConfig(run_dir=run_dir, out_dir=tmp_path, format="stablehlo")
        )
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_neighbours_and_folders_of_others_stay(run_dir, tmp_path):
    """A README alone does not make a folder an export, nor is a name in .part ours."""
    out_dir, neighbour = tmp_path / "out", tmp_path / "out.part"
    for folder in (out_dir, neighbour):
        folder.mkdir()
        (folder / "README.md").write_text("my thesis")
    config = export.ExportConfig(
        run_dir=run_dir, out_dir=out_dir, format="weights", num_frames=2
    )
    with pytest.raises(ValueError, match="earlier export, but holds README.md"):
        export.main(config)
    (out_dir / "README.md").unlink()
    export.main(config)
    export.main(config)  # of an earlier export: replaced
    (out_dir / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="earlier export, but holds notes.txt"):
        export.main(config)
    assert (neighbour / "README.md").read_text() == "my thesis"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.part"]


def test_missing_install_is_named_before_anything_is_done(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(ValueError, match="needs jax2onnx, .*requirements-export.txt"):
        export.main(export.ExportConfig(run_dir=tmp_path))
    with pytest.raises(ValueError, match="config.json is missing"):
        export.main(export.ExportConfig(run_dir=tmp_path, format="stablehlo"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"format": "tflite"}, "--format must be all, or of weights.* got 'tflite'"),
        ({"format": "weights+int8"}, "--format: int8 is made of onnx: add that"),
        (
            {"format": "onnx+int8", "memory": "rolling"},
            "--format: int8 is for a frozen memory",
        ),
        ({"split": "all"}, "--split must be train, validation or test, got 'all'"),
        ({"batch_size": 0}, "--batch_size must be at least 1, got 0"),
        ({"num_frames": 0}, "--num_frames must be at least 1, got 0"),
    ],
)
def test_bad_flag_is_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        export.ExportConfig(**flags)


def test_a_network_of_8_bits_is_near_and_its_folder_says_how_near(tmp_path):
    from cmbjax.predict.predictor import Predictor
    from tests.predict.scenes import person

    train.main(
        TrainConfig(
            dataset="mannequin/tiny",
            run_dir=tmp_path / "run",
            tfds_dir=tmp_path / "tfds",
            batch_size=2,
            num_steps=2,
            **{**NETWORK, "head3d": "maps"},
        )
    )
    config = export.ExportConfig(
        run_dir=tmp_path / "run", format="onnx+weights+int8", num_frames=6
    )
    folder = export.main(config)
    written = json.loads((folder / "card.json").read_text())
    assert INT8_FILE in written["files"]
    assert 1e-4 < written["differences"][export.INT8] < 0.2
    depth = person(0).depth_mm
    exact = Predictor(folder)
    views = [exact.view(depth, found) for found in exact.find(depth)]
    for backend in ("onnxruntime", "openvino"):
        small = Predictor(folder, precision="int8", backend=backend)
        maps, near = exact.run(views[0]), small.run(views[0])
        for name, values in maps.items():
            off = np.abs(near[name] - values).max() / np.ptp(values)
            assert 1e-5 < off < 0.3, (backend, name)
    size = {name: (folder / name).stat().st_size for name in (ONNX_FILE, INT8_FILE)}
    assert size[INT8_FILE] < 0.8 * size[ONNX_FILE]
    (folder / INT8_FILE).unlink()
    with pytest.raises(FileNotFoundError, match=r"network-int8\.onnx is not there"):
        Predictor(folder, precision="int8")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"memory_mode": "per_sample"}, "needs --batch_size=2, a frame for each slot"),
        ({"model": "cmb_none"}, "--memory=rolling: cmb_none has no memory"),
    ],
)
def test_memory_that_cannot_roll_is_refused(run_dir, tmp_path, fields, message):
    for name in ("config.json", "statistics.json"):
        shutil.copy(run_dir / name, tmp_path / name)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **fields}))
    with pytest.raises(ValueError, match=message):
        export.main(
            export.ExportConfig(run_dir=tmp_path, memory="rolling", format="stablehlo")
        )


def test_frames_with_other_joints_are_refused(run_dir, tmp_path):
    fabricate.k2hpd(tmp_path / "source")
    config = export.ExportConfig(
        run_dir=run_dir,
        dataset="k2hpd",
        data_dir=tmp_path / "source",
        tfds_dir=tmp_path / "tfds",
        format="stablehlo",
    )
    with pytest.raises(ValueError, match="has the joints body19, .* trained on body15"):
        export.main(config)


def test_split_without_frames_is_refused(run_dir):
    run = Run.open(run_dir).config
    frames = datasets.load("itop", run.data_dir, run.tfds_dir, split="test")
    empty = dataclasses.replace(frames, source=[])
    with pytest.raises(ValueError, match="itop/side.* has no frames to check with"):
        export.depth_batches(empty, run.make_preparation(frames), 2, 1)


def test_outputs_that_are_no_numbers_do_not_agree():
    reference = [np.array([0.0, 4.0]), np.array([0.0, 1.0])]
    assert formats.difference([np.array([0.0, 5.0]), reference[1]], reference) == 0.25
    for other in (np.array([np.nan, 1.0]), np.array([0.5, 1.0])):
        with pytest.raises(ValueError, match="it differs from the trained network by"):
            formats.check("it", formats.difference([reference[0], other], reference))


def test_script_says_what_is_wrong_in_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "export.py", "--format=stablehlo"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=fabricate.environment(ROOT),
    )
    assert done.returncode != 0
    assert done.stderr.startswith("export.py: no run in runs/")


def test_the_mean_with_another_network_by_hand(run_dir, trained, tmp_path):
    model, variables, _ = trained
    folder = export.main(
        export.ExportConfig(run_dir=run_dir, out_dir=tmp_path / "a", format="weights")
    )
    nothing = jax.tree.map(np.zeros_like, variables)
    mean = export.mean_with(model, nothing, str(folder), 0.25)
    for value, expected in zip(
        jax.tree.leaves(mean), jax.tree.leaves(variables), strict=True
    ):
        np.testing.assert_allclose(value, 0.25 * np.asarray(expected), rtol=1e-6)
    # With itself it is what it was, in the file too, and the card says so.
    same = export.main(
        export.ExportConfig(
            run_dir=run_dir,
            out_dir=tmp_path / "b",
            format="weights",
            mean_with=str(folder),
            mean_share=0.3,
        )
    )
    with np.load(folder / "weights.npz") as a, np.load(same / "weights.npz") as b:
        assert set(a.files) == set(b.files)
        for name in a.files:
            np.testing.assert_allclose(b[name], a[name], rtol=1e-6)
    stored = json.loads((same / "card.json").read_text())
    assert stored["mean_with"] == str(folder) and stored["mean_share"] == 0.3
    with pytest.raises(ValueError, match="people-96 is another network"):
        export.mean_with(model, variables, "people-96", 0.5)
    with pytest.raises(ValueError, match="between 0 and 1, got 1"):
        export.ExportConfig(run_dir=run_dir, mean_share=1.0)


def killed(tmp_path, *files):
    """What an export.py that was killed leaves beside `out`."""
    folder = tmp_path / ".out.ab12cd"
    for name in ("export.lock", *files):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def test_what_a_killed_export_left_goes_with_the_next(run_dir, tmp_path):
    config = export.ExportConfig(
        run_dir=run_dir, out_dir=tmp_path / "out", format="weights", num_frames=2
    )
    left = killed(tmp_path, "new/weights.npz")
    others = [tmp_path / name for name in (".out.git", ".out.12", ".outer.12", "out.x")]
    for other in others:
        other.mkdir()
        (other / "notes.txt").write_text("mine")
    (others[1] / "export.lock").write_text("")  # beside what is not an export's
    export.main(config)
    assert not left.exists() and all(other.exists() for other in others)
    # Where somebody is at work in it, it stays.
    left = killed(tmp_path, "new/weights.npz")
    with only_one(left / "export.lock", "held"):
        export.main(config)
        assert left.exists()
    export.main(config)
    assert not left.exists()


def test_an_export_that_was_killed_while_it_was_replaced_is_there_again(tmp_path):
    out_dir = tmp_path / "out"
    left = killed(tmp_path, "old/card.json", "new/card.json")
    card.clear_away(out_dir)
    assert (out_dir / "card.json").read_text() == "old/card.json"
    assert not left.exists()
    # Of one that was replaced, the newer stays.
    left = killed(tmp_path, "old/other.json")
    card.clear_away(out_dir)
    assert [path.name for path in out_dir.iterdir()] == ["card.json"]
    assert not left.exists()


def test_a_terminated_export_leaves_nothing(run_dir, tmp_path):
    command = [sys.executable, ROOT / "export.py", "--run_dir", run_dir]
    running = subprocess.Popen(
        [*command, "--format=onnx", "--num_frames=2", "--out_dir", tmp_path / "out"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=fabricate.environment(ROOT),
    )
    for _ in range(1200):
        if any(tmp_path.iterdir()) or running.poll() is not None:
            break
        time.sleep(0.1)
    assert [path.name[:5] for path in tmp_path.iterdir()] == [".out."]
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=120)
    assert said.endswith("export.py: interrupted\n") and running.returncode == 1
    assert not any(tmp_path.iterdir())


def test_frames_beyond_the_memory_are_refused_by_an_estimate(run_dir, tmp_path):
    for flags in ({"batch_size": 10**9}, {"num_frames": 10**9}):
        config = export.ExportConfig(
            run_dir=run_dir, out_dir=tmp_path / "out", format="weights", **flags
        )
        with pytest.raises(ValueError, match=r"--batch_size=.* takes about .* GiB"):
            export.main(config)
    assert not (tmp_path / "out").exists()
    # By hand: of a frame the input twice, and 16 x 16 x 15 heat maps and 15 joints
    # thrice, float32; what the network holds at once besides.
    model = Run.open(run_dir).config.make_model(BODY15)
    one, four = (export.bytes_to_check(model, 32, n, 1) for n in (1, 4))
    assert four - one == 3 * 4 * (2 * 32 * 32 + 3 * (16 * 16 * 15 + 15 * 3))


RESULTS = {
    "step": 2,
    "network": "checkpoint",
    "overall_row": "Full Body",
    "table": {"PDJ": {"Full Body": 51.26, "Head": 9.0}, "mAP": {"Full Body": None}},
    "frames": "itop/side, test",
    "num_frames": 3,
    "crop": "person",
    "memory": "frozen",
    "decode": "dark",
    "person_found": "3 of 3",
}


def evaluated(folder, results):
    path = folder / "evaluations/one/results.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results))
    return path


def test_what_was_evaluated_is_told(tmp_path):
    evaluated(tmp_path, RESULTS)
    (told,) = card.of_evaluations(tmp_path, 2)
    names = ("frames", "num_frames", "crop", "memory", "decode", "person_found")
    assert {name: told[name] for name in names} == {
        name: RESULTS[name] for name in names
    }
    assert told["metrics"]["PDJ"] == 51.3 and np.isnan(told["metrics"]["mAP"])
    assert card.of_evaluations(tmp_path, 3) == []
    evaluated(tmp_path, {"step": 2, "network": "checkpoint"})  # of an earlier version
    assert card.of_evaluations(tmp_path, 2) == []


@pytest.mark.parametrize(
    ("results", "says"),
    [
        ([], "Expected `object`, got `array`"),
        (None, "Expected `object`, got `null`"),
        ({}, "missing required field `step`"),
        (RESULTS | {"table": None}, r"got `null` - at `\$.table`"),
        (RESULTS | {"table": {"PDJ": None}}, r"got `null` - at `\$.table\[...\]`"),
        (RESULTS | {"table": {"PDJ": {"Head": 1.0}}}, "table: PDJ has no Full Body"),
        (RESULTS | {"frames": 3}, r"got `int` - at `\$.frames`"),
        (
            {name: value for name, value in RESULTS.items() if name != "frames"},
            "missing required field `frames`",
        ),
    ],
)
def test_an_evaluation_that_is_none_is_named(tmp_path, results, says):
    path = evaluated(tmp_path, results)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: .*{says}"):
        card.of_evaluations(tmp_path, 2)
