import os
import subprocess
import sys

import pytest

# Page faults of ten runs of a program that needs 256 MB, after two.
PROGRAM = """
import resource, sys
import jax, jax.numpy as jnp
from cmbjax import runtime
if sys.argv[1] == "prepared":
    runtime.prepare()
step = jax.jit(lambda x: jnp.sort(x[:, None] * x, axis=0).sum())
x = jnp.ones(8192)
def faults(runs):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(runs):
        step(x).block_until_ready()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(2)
print(faults(5), jax.config.jax_compilation_cache_dir)
"""


def run(tmp_path, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        env={**os.environ, "HOME": str(tmp_path), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    faults, cache = done.stdout.split()
    return int(faults), cache


@pytest.mark.skipif(sys.platform != "linux", reason="of the GNU C library")
def test_freed_memory_is_used_again(tmp_path):
    plain, _ = run(tmp_path, "plain")
    prepared, _ = run(tmp_path, "prepared")
    assert prepared < plain / 2


def test_programs_stay_in_the_home_folder_unless_told_otherwise(tmp_path):
    _, cache = run(tmp_path, "prepared")
    assert cache == str(tmp_path / ".cache" / "cmbjax")
    other = str(tmp_path / "other")
    assert run(tmp_path, "prepared", JAX_COMPILATION_CACHE_DIR=other)[1] == other
