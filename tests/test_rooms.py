"""Imports point one way: which room of cmbjax may import which, and what else."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cmbjax"

# Modules that lie in no folder, and what each of them needs beside NumPy.
GROUND = {
    "calibration": set(),
    "camera": set(),
    "files": {"msgspec"},
    "heatmaps": set(),
    "metrics": {"jax", "jaxtyping"},
    "plots": {"matplotlib"},
    "registry": set(),
    "runtime": {"jax"},
    "scripts": set(),
    "sessions": set(),
    "skeletons": set(),
}
# Rooms that a room may import, beside the ground floor.
ROOMS = {
    "depth": set(),
    "models": set(),
    "predict": {"depth"},
    "data": {"depth"},
    "forests": {"data", "depth"},
    "train": {"data", "depth", "models"},
    "evaluate": {"data", "depth", "models", "train"},
    "export": {"data", "depth", "models", "predict", "train"},
}
# Packages that a room may import at the top of its files.
PACKAGES = {
    "depth": {"cv2", "numpy"},
    "models": {"jax", "flax", "jaxtyping", "numpy"},
    "predict": {"cv2", "msgspec", "numpy", "onnxruntime"},
}
# What a room imports within functions, when it is asked for.
WHEN_ASKED_FOR = {"predict": {"models"}}


def imports(path, *, nested):
    """Returns the modules that a file imports at its top, or in its functions."""
    tree = ast.parse(path.read_text())
    top = {id(node) for node in tree.body}
    names = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        if (id(node) in top) == nested:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        else:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room_of(module):
    """Returns the room of a module of cmbjax; None of the package itself."""
    parts = module.split(".")
    if parts[0] != "cmbjax" or len(parts) == 1:
        return None
    return parts[1]


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_file_imports_what_its_room_may(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room in ("__init__", "loading"):  # the doors: they load a room when asked for
        assert not {room_of(name) for name in imports(path, nested=False)} & set(ROOMS)
        return
    allowed = GROUND.keys() | {room} | ROOMS.get(room, set()) | {"__version__"}
    at_top = imports(path, nested=False)
    rooms = {room_of(name) for name in at_top} - {None}
    assert rooms <= (allowed if room in ROOMS else GROUND.keys() | {"__version__"})
    rooms = {room_of(name) for name in imports(path, nested=True)} - {None}
    assert rooms <= allowed | WHEN_ASKED_FOR.get(room, set())
    packages = {name.split(".")[0] for name in at_top} - {"cmbjax"}
    packages -= sys.stdlib_module_names
    if room in PACKAGES:
        assert packages <= PACKAGES[room]
    if room in GROUND:
        assert packages <= GROUND[room] | {"numpy"}
    assert "datasets" not in packages


def test_every_room_is_described():
    folders = {
        path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()
    }
    assert folders == set(ROOMS)
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "loading"}
    assert modules == set(GROUND)
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    for room in ROOMS:
        assert f"{room}/" in contributing


def loaded_by(code):
    """Returns the top-level packages that are loaded once code has run."""
    code += "; import sys; print(*{m.split('.')[0] for m in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return set(done.stdout.split())


HEAVY = set(
    "tensorflow tensorflow_datasets grain orbax optax mujoco cv2 matplotlib tqdm tyro "
    "onnxruntime tensorboardX".split()
)


def test_models_load_jax_and_flax_alone():
    loaded = loaded_by("import cmbjax.models")
    assert {"jax", "flax"} <= loaded
    # Flax itself loads Orbax and Optax where they are installed.
    assert not loaded & (HEAVY - loaded_by("import flax.linen"))


def test_prediction_loads_neither_jax_nor_what_trains():
    loaded = loaded_by("import cmbjax.predict.predictor")
    heavy = HEAVY | {"jax", "flax", "jaxtyping"}
    assert not loaded & (heavy - {"cv2", "onnxruntime"})


def test_training_and_prediction_do_not_load_one_another():
    code = "import sys, {}; print(any(m.startswith('{}') for m in sys.modules))"
    for module, absent in (
        ("cmbjax.train.run, cmbjax.train.loop", "cmbjax.predict"),
        ("cmbjax.predict.predictor", "cmbjax.train"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code.format(module, absent)],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
        assert done.stdout.strip() == "False"
