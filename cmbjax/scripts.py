"""What a script may open, and how it ends."""

import contextlib
import functools
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from cmbjax.files import printable


@contextlib.contextmanager
def script(name: str, *ends: type[Exception]) -> Iterator[None]:
    """Ends a script whose input is refused, or that is interrupted, in one line.

    SIGTERM is as Ctrl-C: whatever is held is let go of, and other processes end, too.
    As many files may be open as the system allows: each shard of a data set stays open,
    and 10^6 frames have a thousand, which is all that most shells allow.

    Args:
        name: Of the script, for the line.
        *ends: Exceptions that say what the user has to know, beside ValueError and
            OSError.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # a system may refuse its own limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    usual = sys.unraisablehook
    sys.unraisablehook = functools.partial(_interrupt_again, usual)
    told: tuple[type[Exception], ...] = (ValueError, OSError, MemoryError, *ends)
    try:
        yield
    except told as error:
        sys.exit(f"{name}: {printable(error) or 'there is not enough memory'}")
    except KeyboardInterrupt as error:  # may say what to do next
        sys.exit(f"{name}: interrupted{error}")
    finally:
        sys.unraisablehook = usual


def _interrupt_again(
    usual: Callable[["sys.UnraisableHookArgs"], Any],
    unraisable: "sys.UnraisableHookArgs",
) -> None:
    """Interrupts what goes on when an interruption came where Python ignores it.

    That is while garbage is collected, of which JAX is told by a callback. A little
    later: here it would be ignored once more.
    """
    if unraisable.exc_type is KeyboardInterrupt:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    else:
        usual(unraisable)
