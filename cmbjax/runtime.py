"""What a script sets before it computes."""

from pathlib import Path

import jax

CACHE = Path("~/.cache/cmbjax").expanduser()


def keep_compiled() -> None:
    """Keeps compiled programs on disk, unless JAX_COMPILATION_CACHE_DIR tells where."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(CACHE))
