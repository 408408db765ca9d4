"""What a script sets before it computes: where compiled programs stay, and memory."""

import ctypes
import platform
from pathlib import Path

import jax

CACHE = Path("~/.cache/cmbjax").expanduser()

# malloc.h of the GNU C library.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8


def prepare() -> None:
    """Keeps compiled programs on disk, and freed memory for the next step."""
    keep_compiled()
    _keep_freed_memory()


def keep_compiled() -> None:
    """Keeps compiled programs on disk, unless JAX_COMPILATION_CACHE_DIR tells where."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(CACHE))


def _keep_freed_memory() -> None:
    """Has the C library keep what XLA frees after each step on CPU.

    By default it gives large pieces back to the system, which hands them out again page
    by page, zeroed: a sixth of a training step.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(M_ARENA_MAX, 1)
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, -1)
    mallopt(M_TOP_PAD, 256 * 2**20)
