"""Damages files for a while: `python -m tests.hostile --minutes=N`.

Interrupted, by Ctrl-C or SIGTERM, it still says what came.
"""

import argparse
import collections
import json
import math
import multiprocessing
import os
import signal
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from tests.hostile import fuzz  # noqa: E402
from tests.hostile.targets import TARGETS  # noqa: E402

Ends = dict[str, collections.Counter[str]]  # of each target, how often each end came


def main() -> int:
    """Prints a table, and returns 1 if anything was not handled."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0, help="of the first round")
    parser.add_argument("--keep", default="runs/hostile", help="gets what went wrong")
    parser.add_argument("targets", nargs="*", choices=[[], *(t.name for t in TARGETS)])
    arguments = parser.parse_args()
    if not 0 < arguments.minutes < math.inf:
        parser.error(f"--minutes must be above 0, got {arguments.minutes}")
    chosen = [
        t.name for t in TARGETS if not arguments.targets or t.name in arguments.targets
    ]
    ends: Ends = collections.defaultdict(collections.Counter)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for turn in fuzz.until(arguments.minutes):
            name = chosen[turn % len(chosen)]
            seed = arguments.seed + turn // len(chosen)
            ends[name].update(in_a_process(name, seed, arguments.keep))
    except KeyboardInterrupt:
        print("interrupted; until then:")
    return report(ends)


def in_a_process(name: str, seed: int, keep: str) -> dict[str, int]:
    """Returns what `fuzz.work` does; that the process died is an end like others."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=fuzz.send_work, args=(sender, name, seed, keep))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:  # nothing may end the interpreter itself
        return {f"the process died, seed {seed}": 1}
    finally:
        process.kill()
        process.join()


def report(ends: Ends) -> int:
    """Prints the table, and returns 1 if anything was not handled."""
    bad = {
        name: {end: n for end, n in counts.items() if end not in ("read", "refused")}
        for name, counts in ends.items()
    }
    print("| file | inputs | read | refused | wrong |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, counts in ends.items():
        wrong = sum(bad[name].values())
        cells = (counts.total(), counts["read"], counts["refused"], wrong)
        print(f"| {name} | {' | '.join(map(str, cells))} |")
    print(f"{sum(counts.total() for counts in ends.values())} inputs")
    print(json.dumps({k: v for k, v in bad.items() if v}, indent=1), flush=True)
    return int(any(bad.values()))


if __name__ == "__main__":
    sys.exit(main())
