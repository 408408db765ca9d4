import os
import subprocess
import sys

# Compiled programs that take no second are not worth a file: here all are.
PROGRAM = """
import jax, jax.numpy as jnp
from cmbjax import runtime
runtime.keep_compiled()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((64, 64)))
"""


def files_after(tmp_path, folder, **environment):
    subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "HOME": str(tmp_path), **environment},
        check=True,
    )
    return list(folder.iterdir()) if folder.exists() else []


def test_programs_stay_in_the_home_folder_unless_told_otherwise(tmp_path):
    home, other = tmp_path / ".cache" / "cmbjax", tmp_path / "other"
    assert not files_after(tmp_path, home, JAX_COMPILATION_CACHE_DIR=str(other))
    assert list(other.iterdir())
    assert files_after(tmp_path, home)
