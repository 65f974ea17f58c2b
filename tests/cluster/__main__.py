"""`make cluster`: faults that only a cluster has, on hosts of their own, judged by the messages that arrive.

    python -m tests.cluster [--short] [NAME...]

As root; elsewhere it says why not and succeeds (with CI=true it fails).
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from tests.cluster.cluster import PROGRAMS, Cluster
from tests.cluster.incidents import INCIDENTS, SHORT
from tests.hosts import world


def main() -> int:
    """Play the incidents; 1 if a message was missing or wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--short", action="store_true", help="what CI plays: one incident, three minutes")
    parser.add_argument("--list", action="store_true", help="only name the incidents")
    parser.add_argument("names", nargs="*", help="incidents; all of them by default")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(one.name for one in INCIDENTS))
        return 0
    if reason := world.missing(PROGRAMS):
        print(f"the cluster is not played: {reason}", file=sys.stderr)
        return int(os.environ.get("CI") == "true")
    if world.INSIDE not in os.environ:
        world.enter("tests.cluster", *sys.argv[1:])
    wanted = arguments.names or (SHORT if arguments.short else [one.name for one in INCIDENTS])
    begun = time.monotonic()
    failed = 0
    with Cluster() as cluster:
        for incident in INCIDENTS:
            if incident.name not in wanted:
                continue
            if incident.needs_memory_limit and not cluster.limits_memory:
                print(f"not run  {incident.name}: hosts have no limit of memory here", flush=True)
                continue
            verdict = incident.play(cluster)
            failed += bool(verdict.problems)
            word = "failed" if verdict.problems else "good"
            print(
                f"{word:8} {verdict.name}: {verdict.seconds:.0f} s; {'; '.join(verdict.problems)}", flush=True
            )
            print(f"         {', '.join(verdict.messages)}", flush=True)
            for name, host in cluster.hosts.items():
                if host.process.poll() is not None:
                    cluster.boot(name)
    print(f"{failed} of {len(wanted)} failed, {time.monotonic() - begun:.0f} s")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
