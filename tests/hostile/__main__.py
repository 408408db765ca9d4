"""Damages files for a while: `python -m tests.hostile --minutes=N`."""

import argparse
import collections
import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from tests.hostile import fuzz  # noqa: E402
from tests.hostile.targets import TARGETS  # noqa: E402


def main() -> int:
    """Prints a table, and returns 1 if anything was not handled."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0, help="of the first round")
    parser.add_argument("--keep", default="runs/hostile", help="gets what went wrong")
    parser.add_argument("targets", nargs="*", choices=[[], *(t.name for t in TARGETS)])
    arguments = parser.parse_args()
    chosen = [
        t.name for t in TARGETS if not arguments.targets or t.name in arguments.targets
    ]
    ends: dict[str, collections.Counter[str]] = collections.defaultdict(
        collections.Counter
    )
    context = multiprocessing.get_context("spawn")
    for turn in fuzz.until(arguments.minutes):
        name, seed = chosen[turn % len(chosen)], arguments.seed + turn // len(chosen)
        with ProcessPoolExecutor(1, context) as executor:
            try:
                ends[name].update(
                    executor.submit(fuzz.work, name, seed, arguments.keep).result()
                )
            except BrokenProcessPool:  # nothing may end the interpreter itself
                ends[name][f"the process died, seed {seed}"] += 1
    total = sum(sum(counts.values()) for counts in ends.values())
    bad = {
        name: {end: n for end, n in counts.items() if end not in ("read", "refused")}
        for name, counts in ends.items()
    }
    print("| file | inputs | read | refused | wrong |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, counts in ends.items():
        wrong = sum(bad[name].values())
        cells = (sum(counts.values()), counts["read"], counts["refused"], wrong)
        print(f"| {name} | {' | '.join(map(str, cells))} |")
    print(f"{total} inputs")
    print(json.dumps({k: v for k, v in bad.items() if v}, indent=1))
    return int(any(bad.values()))


if __name__ == "__main__":
    sys.exit(main())
