import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmbjax import runtime

FLAG = "--xla_cpu_experimental_ynn_fusion_type"
PASSES = "--xla_disable_hlo_passes"
KEPT = f"{PASSES}=cse_barrier_expander"

# Compiled programs that take no second are not worth a file: here all are.
PROGRAM = """
import resource, sys
import jax, jax.numpy as jnp
from cmbjax import runtime
if "prepared" in sys.argv:
    runtime.prepare()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
x, kernel = jnp.ones((16, 128, 128, 32)), jnp.ones((3, 3, 32, 32))

@jax.jit
def step(x):
    for _ in range(3):
        x = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = x / jnp.max(x)
    return x
for _ in range(4):
    y = step(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
text = step.lower(x).compile().as_text()
print(sum("__ynn" in line and "/conv_general" in line for line in text.splitlines()))

@jax.jit
def read_twice(x):
    x = runtime.computed_once(jnp.maximum(x, 0.5))
    y = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y, x.transpose(3, 1, 2, 0)
text = read_twice.lower(x).compile().as_text()
print(sum(" maximum(" in line for line in text.splitlines()))
"""

COMPILES = """
import sys
import jax, jax.numpy as jnp
from cmbjax import runtime
runtime.LONG_S = float(sys.argv[1])
runtime.fill_gaps = lambda: print("filled")
runtime.prepare()
runtime.prepare()
jax.jit(lambda x: jnp.sin(x) @ x).lower(jnp.ones((3, 3))).compile()
"""

# Half of many blocks that were written to is freed, so that nothing can be joined.
GAPS = """
import ctypes
from pathlib import Path
from cmbjax import runtime
runtime.prepare()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
sizes = [1100 + 37 * i for i in range(4000)]  # 300 MB
blocks = [libc.malloc(size) for size in sizes]
for block, size in zip(blocks, sizes):
    ctypes.memset(block, 7, size)
keeps_the_top_apart = libc.malloc(10**7)
for block in blocks[::2]:
    libc.free(block)

def megabytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return [int(line.split()[1]) for line in lines if "VmRSS" in line][0] // 1024
before = megabytes()
runtime.fill_gaps()
print(before - megabytes())
largest = max(blocks)
print(sum(libc.malloc(50_000) < largest for _ in range(300)))
kept = [ctypes.string_at(b, s) == bytes([7]) * s for b, s in zip(blocks, sizes)]
print(all(kept[1::2]))
"""


def lines_of(program, tmp_path, *arguments, **environment):
    inherited = {
        name: value
        for name, value in os.environ.items()
        if "XLA" not in name and "CACHE" not in name
    }
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**inherited, "HOME": str(tmp_path), **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def run(tmp_path, *arguments, **environment):
    """Returns page faults, YNNPACK's convolutions and how often x is computed."""
    return list(map(int, lines_of(PROGRAM, tmp_path, *arguments, **environment)))


@pytest.mark.skipif(sys.platform != "linux", reason="of the GNU C library")
def test_freed_memory_is_used_again(tmp_path):
    assert run(tmp_path, "prepared")[0] < run(tmp_path)[0] / 3


@pytest.mark.skipif(sys.platform != "linux", reason="of the GNU C library")
def test_gaps_that_a_compiler_leaves_are_filled(tmp_path):
    """148 MB of gaps: their pages go back, nothing is found in them, the rest stays."""
    freed, found, is_kept = lines_of(GAPS, tmp_path)
    assert int(freed) > 120
    assert int(found) == 0
    assert is_kept == "True"


@pytest.mark.skipif(sys.platform != "linux", reason="of the GNU C library")
def test_gaps_are_filled_after_each_long_compilation(tmp_path):
    filled = lines_of(COMPILES, tmp_path, "0")
    assert filled and set(filled) == {"filled"}
    assert not lines_of(COMPILES, tmp_path, "1e9")


def test_programs_stay_in_the_home_folder_unless_told_otherwise(tmp_path):
    home, other = tmp_path / ".cache" / "cmbjax", tmp_path / "other"
    run(tmp_path, "prepared", JAX_COMPILATION_CACHE_DIR=str(other))
    assert list(other.iterdir()) and not home.exists()
    run(tmp_path, "prepared")
    assert list(home.iterdir())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", f"{FLAG}=reduce {KEPT}"),
        ("--a=1", f"--a=1 {FLAG}=reduce {KEPT}"),
        (f"{FLAG}=dot", f"{FLAG}=dot {KEPT}"),
        (f"{PASSES}=dce", f"{PASSES}=dce {FLAG}=reduce"),
    ],
)
def test_flags_of_the_user_stand(tmp_path, monkeypatch, given, expected):
    monkeypatch.setenv("XLA_FLAGS", given)
    monkeypatch.setattr(runtime, "keep_compiled", lambda: None)
    monkeypatch.setattr(runtime, "keep_freed_memory", lambda: None)
    runtime.prepare()
    assert os.environ["XLA_FLAGS"] == expected


def test_convolutions_are_not_left_to_ynnpack(tmp_path):
    assert run(tmp_path)[1] > 0
    assert run(tmp_path, "prepared")[1] == 0


def test_what_two_read_is_computed_once(tmp_path):
    """XLA alone computes the maximum for the convolution and for the transposition."""
    assert run(tmp_path)[2] == 2
    assert run(tmp_path, "prepared")[2] == 1


def test_what_no_device_holds_is_refused_with_an_estimate(monkeypatch):
    """Few pixels are not estimated at all."""
    monkeypatch.setattr(runtime, "memory_bytes", lambda: 2**30)
    runtime.check_memory("--batch_size=8", runtime.SMALL, lambda: 2**30)
    runtime.check_memory("--batch_size=8", runtime.SMALL - 1, lambda: 2**40)
    match = "^--batch_size=8: takes about 1.5 GiB a device, and there are 1; choose"
    with pytest.raises(ValueError, match=match):
        runtime.check_memory("--batch_size=8", runtime.SMALL, lambda: 3 * 2**29)


def test_memory_is_that_of_what_is_there_at_once_by_hand():
    """1000 float32 are 4000 bytes."""

    @jax.jit
    def inner(x):
        return jnp.sin(jnp.cos(x))

    def function(x):
        stays = x + 1
        for _ in range(5):
            x = inner(x)
        return stays, x

    x = np.ones(1000, np.float32)
    # In a later call: what was given, `stays`, the sine before, cosine and sine.
    assert runtime.bytes_at_once(function, x) == 5 * 4000
    shape = jax.ShapeDtypeStruct((1000,), jnp.float32)
    assert runtime.bytes_at_once(function, shape) == 5 * 4000
    assert runtime.bytes_at_once(lambda x: x, x) == 4000
    # What is computed anew on the way back is there, too, on the way forward.
    assert runtime.bytes_at_once(jax.checkpoint(function), x) == 5 * 4000
    branches = functools.partial(jax.lax.cond, True, inner, jnp.negative)
    # What was given, the cosine and the sine, and a number that says which.
    assert runtime.bytes_at_once(branches, x) == pytest.approx(3 * 4000, abs=8)


def test_memory_of_a_container_is_its_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "LIMIT", tmp_path / "memory.max")
    whole = runtime.memory_bytes()
    assert whole > 2**28
    runtime.LIMIT.write_text("max\n")
    assert runtime.memory_bytes() == whole
    runtime.LIMIT.write_text("1048576\n")
    assert runtime.memory_bytes() == 2**20
