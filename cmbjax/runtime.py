"""What a script sets, and asks of the machine, before it computes."""

import contextlib
import ctypes
import functools
import os
import platform
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
from jax.extend import core

CACHE = Path("~/.cache/cmbjax").expanduser()

# Which library computes what on CPU. By default YNNPACK computes convolutions, and
# shares those to up to 64 channels among no threads; Eigen shares all. Filter gradients
# are 1.2 to 2.3 times as fast in Eigen. YNNPACK is better at sums, such as BN's.
YNNPACK_OPTION = "xla_cpu_experimental_ynn_fusion_type"
CPU_LIBRARY: dict[str, str | bool] = {YNNPACK_OPTION: "LIBRARY_FUSION_TYPE_REDUCE"}

# Without it XLA on CPU drops what `computed_once` asks for before it fuses operations.
KEEP_BARRIERS = "--xla_disable_hlo_passes=cse_barrier_expander"

# Of what runs once, such as drawing the parameters: half a minute of compilation less.
COMPILED_QUICKLY: dict[str, str | bool] = {"xla_backend_optimization_level": "0"}

LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container; "max" where there is none

# malloc.h of the GNU C library.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8

# JAX's event, of loading a kept program as well; and how long one takes that leaves
# much behind.
COMPILATION, LONG_S = "/jax/core/compile/backend_compile_duration", 1.0
LARGEST_GAP, SMALLEST_GAP = 2**26, 2**10  # bytes; for less there are lists by size

SMALL = 2**22  # pixels of a batch: fewer fit everywhere, and are not counted


def prepare() -> None:
    """Makes the most of a machine; before the first computation of the process.

    What the user has set in XLA_FLAGS and JAX_COMPILATION_CACHE_DIR stands.
    """
    keep_compiled()
    flags = os.environ.get("XLA_FLAGS", "")
    for flag in (f"--{YNNPACK_OPTION}=reduce", KEEP_BARRIERS):
        if flag.partition("=")[0] not in flags:
            flags = f"{flags} {flag}".strip()
    os.environ["XLA_FLAGS"] = flags
    keep_freed_memory()


def computed_once(x: jax.Array) -> jax.Array:
    """Returns x as memory that all who read it share, on CPU.

    XLA on CPU computes a short chain of elementwise operations anew for whoever reads
    it. A convolution's filter gradient reads its input and the gradient with axes
    exchanged: for that alone there is a fast program, which BN and ReLU in the same
    one make slow, by 6 times for 16 x 128 x 128 x 32 values.
    """
    return jax.lax.optimization_barrier(x) if jax.default_backend() == "cpu" else x


def keep_compiled() -> None:
    """Keeps compiled programs on disk, unless JAX_COMPILATION_CACHE_DIR tells where."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(CACHE))


@contextlib.contextmanager
def jax_option(name: str, value: Any) -> Iterator[None]:
    """Sets an option of JAX for a while."""
    before = jax.config.values[name]
    jax.config.update(name, value)
    try:
        yield
    finally:
        jax.config.update(name, before)


def keeping_small_programs() -> contextlib.AbstractContextManager[None]:
    """Keeps what compiles within a second, too, while a network is frozen.

    What is constant in it is computed by some 170 small programs, which together take
    longer to compile than the network.
    """
    return jax_option("jax_persistent_cache_min_compile_time_secs", 0.0)


def memory_bytes() -> int:
    """Returns how much memory this process' first device has."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        limit = LIMIT.read_text().strip() if LIMIT.exists() else "max"
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return min(whole, int(limit)) if limit.isdigit() else whole
    return (device.memory_stats() or {}).get("bytes_limit", 2**63)


def check_memory(flags: str, pixels: int, needed: Callable[[], int]) -> None:
    """Refuses what a device cannot hold, before it is tried.

    Args:
        flags: That ask for it, with their values, for the error.
        pixels: Of a batch on one device; if these are few, nothing is estimated.
        needed: Returns about how many bytes that takes: `bytes_at_once`, for one.

    Raises:
        ValueError: There is less; says how much of both.
    """
    if pixels < SMALL:
        return
    asked, there = needed(), memory_bytes()
    if asked > there:
        raise ValueError(
            f"{flags}: takes about {asked / 2**30:.3g} GiB a device, and there are "
            f"{there / 2**30:.3g}; choose a smaller one"
        )


def bytes_at_once(function: Callable[..., Any], *arguments: Any) -> int:
    """Returns about how much memory a function takes, its arguments among it.

    What a function is given stays; what it computes is there until it is last read. XLA
    needs less where it fuses operations, and more for what it rearranges.

    Args:
        function: Of arrays.
        *arguments: Of the function; shapes are enough (`jax.ShapeDtypeStruct`).
    """
    return most_at_once(jax.make_jaxpr(function)(*arguments).jaxpr)


def most_at_once(jaxpr: core.Jaxpr) -> int:
    """Returns `bytes_at_once` of a program."""
    given = [*jaxpr.constvars, *jaxpr.invars]
    last_read = {
        variable: number
        for number, equation in enumerate(jaxpr.eqns)
        for variable in _variables(equation.invars)
    } | dict.fromkeys(_variables([*given, *jaxpr.outvars]), len(jaxpr.eqns))
    here = most = bytes_of(given)
    for number, equation in enumerate(jaxpr.eqns):
        within = [
            most_at_once(part) - bytes_of(part.invars)
            for part in inner_programs(equation)
        ]
        made = bytes_of(equation.outvars)
        most = max(most, here + max([made, *within]))
        touched = _variables([*equation.invars, *equation.outvars])
        done = {v for v in touched if last_read.get(v, number) == number}
        here += made - bytes_of(done)
    return most


def inner_programs(equation: core.JaxprEqn) -> list[core.Jaxpr]:
    """Returns the programs in an operation: of jit, loops, branches, checkpoints."""
    parts = jax.tree.leaves(
        list(equation.params.values()),
        is_leaf=lambda part: isinstance(part, core.Jaxpr | core.ClosedJaxpr),
    )
    programs = [p.jaxpr if isinstance(p, core.ClosedJaxpr) else p for p in parts]
    return [program for program in programs if isinstance(program, core.Jaxpr)]


def _variables(atoms: Iterable[Any]) -> Iterator[Any]:
    return (atom for atom in atoms if not hasattr(atom, "val"))  # literals have one


def bytes_of(variables: Iterable[Any]) -> int:
    """Returns how much memory the values of a program's variables take."""
    values = [variable.aval for variable in variables]
    return sum(x.size * x.dtype.itemsize for x in values if hasattr(x, "size"))


@functools.cache
def keep_freed_memory() -> None:
    """Has the C library keep what XLA frees after each step on CPU.

    By default large pieces go back to the system, which hands them out again page by
    page, zeroed: a quarter of a training step. Threads that are there already keep
    their ways, so this must come before the first computation.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
        jax.monitoring.register_event_duration_secs_listener(_fill_after_compilation)


def _fill_after_compilation(event: str, duration_secs: float, **_: Any) -> None:
    if event == COMPILATION and duration_secs > LONG_S:
        fill_gaps()


def fill_gaps() -> None:
    """Takes what the GNU C library has free between what is not, for good.

    A compiler leaves tens of thousands of such gaps. XLA's convolutions ask for memory
    all the time, and the search through the gaps makes a step 1.3 to 1.5 times as long.
    Their whole pages go back to the system first; what is left is some 5 MB.
    """
    libc = ctypes.CDLL(None)
    libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p
    libc.malloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
    libc.sbrk.argtypes = [ctypes.c_ssize_t]
    libc.malloc_trim(0)
    end, size = libc.sbrk(0), LARGEST_GAP
    while size > SMALLEST_GAP:
        gap = libc.malloc(size)
        if not gap or gap + size > end:
            libc.free(gap)
            size = size * 7 // 8
