"""The bandit's bounds under anything an operator may do: as many picks as wanted, each checked (`tests/bandit/audit.py`).

    python bench/promises.py [--picks 1000000] [--seed 0]
    python bench/promises.py --memory [--picks 1000000]

Prints a line a policy and what was checked; a broken promise ends it with a traceback and the seed that shows it.
--memory instead pulls among 1,000 arms and prints the most memory held so far, ten times; exits 1 if it still grew by
a megabyte after the first tenth.
"""

import argparse
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "bandit"))

from audit import wander
from bandit_worlds import arms, drive

from bandit.policies import POLICIES
from bandit.scheduler import Scheduler, SchedulerConfig

CHECKED = """checked at every pick: awake, capped above 0, with data; ticket, step, window and cursor in order; mixtures
within H_K - 1 and 1 - 1/K pulls of the summed targets ((K - 1)/2 + 1 once somebody slept); argmax: urgent floors by
deadline, then caps, both within a pull since the last edit. At every change of shares: sum 1, hard bounds, weights
within floors and caps, implied intervals, one water level. At every sample: credit conserved, recent arms only. At
every cut, as text or packed: the restored twin does the same from there on, bit for bit."""


def memory(policy: str, picks: int) -> int:
    """KiB by which the peak of memory rose after the first tenth of the picks."""
    config = SchedulerConfig(seed=1, grad_accum=20, windows_per_pull=8, delay=4, policy=policy)
    scheduler, peaks = Scheduler(config, arms(1000)), []
    steps = picks // 200
    for tenth in range(10):
        for step in range(tenth * steps + 1, (tenth + 1) * steps + 1):
            drive(scheduler, step, step)
            if step % 100 == 0:
                scheduler.penalize(step, 0.5)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    print(f"{policy:<14} {picks:9,} picks of 1,000 arms, peak KiB at every tenth: {peaks}", flush=True)
    return peaks[-1] - peaks[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picks", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory", action="store_true")
    arguments = parser.parse_args()
    if arguments.memory:
        return int(max([memory(policy, arguments.picks) for policy in ("focus-ucb", "ucb", "exp3")]) > 1024)
    each, began = -(-arguments.picks // len(POLICIES)), time.process_time()
    total = 0
    for policy in POLICIES:
        picks, seed = 0, arguments.seed
        while picks < each:
            try:
                picks += wander(seed, min(2000, each), policy).picks
            except BaseException:
                print(f"broken by: policy {policy}, seed {seed}, {min(2000, each)} picks", file=sys.stderr)
                raise
            seed += 1
        total += picks
        print(
            f"{policy:<14} {picks:9,} picks  {seed - arguments.seed:5} sets of arms and settings", flush=True
        )
    print(f"{total:,} picks in {time.process_time() - began:.0f} s of processor time: no promise broken")
    print(CHECKED)
    return 0


if __name__ == "__main__":
    sys.exit(main())
