"""What runs a network says what is wrong with its files."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cmbjax
from cmbjax.export.card import of_files
from cmbjax.files import read_json, read_npz
from cmbjax.predict.card import CARD_FILE, write_card
from cmbjax.predict.predictor import Predictor
from cmbjax.predict.runtimes import open_network
from tests import fabricate
from tests.predict.scenes import HAS_ONNX

BACKENDS = ["onnxruntime", *(["openvino"] if HAS_ONNX else [])]


def rewritten(folder, to, **fields):
    """A copy of an exported folder with another card, whole."""
    shutil.copytree(folder, to, dirs_exist_ok=True)
    write_card(to, read_json(to / CARD_FILE) | fields)
    return to


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"width": 0.25},
            r"cmb1/input/BatchNorm_0/mean is \(4,\) there, expected \(8,\)",
        ),
        ({"head3d": "none"}, r"params/depth/bias is \(15,\) there, expected None"),
        ({"trunk_norm": False}, r"is \(.*\) there, expected None"),
        ({"name": "cmb_none"}, r"is .* there, expected"),
        ({"name": "cbm"}, "none that this version of cmbjax has: unknown network"),
        ({"name": "convgru"}, "there, expected|none that this version"),
        ({"name": "sh1"}, "none that this version of cmbjax has"),
    ],
)
def test_weights_of_another_network_are_refused(small, tmp_path, fields, says):
    network = read_json(small["maps"] / CARD_FILE)["network"] | fields
    folder = rewritten(small["maps"], tmp_path, network=network)
    with pytest.raises(ValueError, match=f"card.json.*{says}"):
        cmbjax.load(folder)
    with pytest.raises(ValueError, match=says):
        Predictor(folder, backend="jax")


def test_weights_of_another_side_are_refused(small, tmp_path):
    """The memory has the image's cells."""
    outputs = {name: (1, 20, 20, 15) for name in ("heatmaps", "depth_maps")}
    folder = rewritten(small["maps"], tmp_path, side=40, outputs=outputs)
    with pytest.raises(ValueError, match=r"memory/cmb1/value is \(16, 16, .* expected"):
        cmbjax.load(folder)
    outputs = {name: (1, 18, 18, 15) for name in outputs}
    write_card(folder, read_json(folder / CARD_FILE) | {"side": 36, "outputs": outputs})
    with pytest.raises(ValueError, match=r"card\.json: .* a multiple of 8"):
        cmbjax.load(folder)


def test_a_memory_has_as_many_slots_as_the_file(small, tmp_path):
    arrays = {
        name: np.stack([value, value + 1]) if name.startswith("memory/") else value
        for name, value in read_npz(small["maps"] / "weights.npz").items()
    }
    folder = rewritten(small["maps"], tmp_path)
    np.savez(folder / "weights.npz", **arrays)
    about = read_json(folder / CARD_FILE)
    about["network"]["memory_mode"] = "per_sample"
    write_card(folder, about | {"files": of_files([folder / "weights.npz"])})
    model, variables = cmbjax.load(folder)
    assert model.memory_mode == "per_sample"
    slots = variables["memory"]["cmb1"]["value"]
    np.testing.assert_array_equal(slots[1], arrays["memory/cmb1/value"][1])
    write_card(
        folder,
        read_json(folder / CARD_FILE)
        | {"network": read_json(small["maps"] / CARD_FILE)["network"]},
    )
    with pytest.raises(ValueError, match=r"cmb1/value is \(2, 16, .* expected \(16, "):
        cmbjax.load(folder)


@pytest.mark.skipif(not HAS_ONNX, reason="needs requirements-export.txt")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("network", "fields", "says"),
    [
        (
            "maps",
            {"outputs": {x: [1, 16, 16, 15] for x in ("depth_maps", "heatmaps")}},
            r"returns heatmaps \[1, 16, 16, 15\], depth_maps .*expected by card.json: "
            r"depth_maps \[1, 16, 16, 15\], heatmaps",
        ),
        (
            "maps",
            {"outputs": {"heatmaps": [1, 16, 16, 15]}},
            r"returns heatmaps .* expected by card.json: heatmaps \[1, 16, 16, 15\]$",
        ),
        (
            "maps",
            {
                "side": 64,
                "stride": 4,
            },
            r"takes depth \[1, 32, 32, 1\]; expected by card.json: depth "
            r"\[1, 64, 64, 1\]",
        ),
        (
            "rolling",
            {"outputs": {x: [1, 16, 16, 15] for x in ("heatmaps", "depth_maps")}},
            r"card.json: outputs are .*; expected among them new_<name> of each memory",
        ),
    ],
)
def test_onnx_that_is_not_of_the_card_is_refused(
    small, tmp_path, backend, network, fields, says
):
    folder = rewritten(small[network], tmp_path, **fields)
    memory = "rolling" if network == "rolling" else "frozen"
    with pytest.raises(ValueError, match=says):
        Predictor(folder, backend=backend, memory=memory)


@pytest.mark.skipif(not HAS_ONNX, reason="needs requirements-export.txt")
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_no_network_is_refused_by_its_name(small, tmp_path, backend):
    (tmp_path / "network.onnx").write_bytes(b"no protobuf" * 99)
    with pytest.raises(ValueError, match=r"network\.onnx cannot be run: ") as error:
        open_network(tmp_path / "network.onnx", ["heatmaps"], backend=backend)
    assert len(str(error.value)) < 400 and "\n" not in str(error.value)
    path = small["maps"] / "network.onnx"
    with pytest.raises(
        ValueError, match=r"returns .*; expected by card.json: heatmaps$"
    ):
        open_network(path, ["heatmaps"], backend=backend)
    run = open_network(path, ("heatmaps", "depth_maps"), backend=backend)
    outputs = run({"depth": np.zeros((1, 32, 32, 1), np.float32)})
    assert list(outputs) == ["heatmaps", "depth_maps"]


DROPPED_BY_A_THREAD = """
import os, signal, threading
from pathlib import Path
from cmbjax.predict.runtimes import open_network

outputs = ["heatmaps", "depth_maps"]
network = [open_network(Path("network.onnx"), outputs, backend="openvino")]
dropping = threading.Thread(target=network.clear)
dropping.start()
dropping.join()
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.skipif("openvino" not in BACKENDS, reason="needs requirements-export.txt")
def test_a_signal_is_no_fault_after_a_thread_let_go_of_openvino(small):
    command = [sys.executable, "-c", DROPPED_BY_A_THREAD]
    environment = fabricate.environment(Path(__file__).parents[2])
    done = subprocess.run(
        command, cwd=small["maps"], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


def test_stablehlo_that_is_none_is_refused_by_its_name(tmp_path):
    (tmp_path / "network.stablehlo").write_bytes(b"no flatbuffer" * 99)
    with pytest.raises(ValueError, match=r"network\.stablehlo cannot be run: "):
        open_network(tmp_path / "network.stablehlo", ["heatmaps"])


@pytest.mark.skipif(not HAS_ONNX, reason="needs requirements-export.txt")
@pytest.mark.parametrize("backend", BACKENDS)
def test_outputs_keep_their_names_where_a_runtime_drops_the_sum_they_end_in(
    tmp_path, backend
):
    """OpenVINO leaves out the bias of a network that has not learned one."""
    onnx = pytest.importorskip("onnx")
    helper, of_float = onnx.helper, onnx.TensorProto.FLOAT
    kernel, zero = np.full((2, 1, 1, 1), 3, np.float32), np.zeros(2, np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["depth", "kernel"], ["before"]),
            helper.make_node("Add", ["before", "zero"], ["heatmaps"]),
        ],
        "sum",
        [helper.make_tensor_value_info("depth", of_float, (1, 1, 4, 4))],
        [helper.make_tensor_value_info("heatmaps", of_float, (1, 2, 4, 4))],
        [
            onnx.numpy_helper.from_array(kernel, "kernel"),
            onnx.numpy_helper.from_array(zero[:, None, None], "zero"),
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    onnx.save(model, tmp_path / "network.onnx")
    run = open_network(
        tmp_path / "network.onnx", {"heatmaps": (1, 2, 4, 4)}, backend=backend
    )
    outputs = run({"depth": np.ones((1, 1, 4, 4), np.float32)})
    np.testing.assert_array_equal(outputs["heatmaps"], np.full((1, 2, 4, 4), 3.0))
