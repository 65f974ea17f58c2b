"""What `helm test` does: it asks whether Prometheus took rules and monitor, and whether the bridge answers.

The operator ignores silently what its selectors do not match, so an installation that succeeded may do
nothing. Needs nothing but Python; ends with status 1 and says what to change.
"""

import argparse
import json
import sys
import urllib.error
import urllib.request


def fetch(url):
    """The body of a page; raises OSError."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read()


def data(prometheus, path):
    """What Prometheus answers to a question of its API."""
    return json.loads(fetch(f"{prometheus.rstrip('/')}/api/v1/{path}"))["data"]


def rule_problems(prometheus, wanted):
    """Groups that Prometheus has not loaded, and rules that it cannot evaluate."""
    groups = data(prometheus, "rules")["groups"]
    missing = sorted(set(wanted) - {group["name"] for group in groups})
    if missing:
        yield (
            f"Prometheus has no group {', '.join(missing)}. Does its ruleSelector ask for a label? "
            "kubectl get prometheus -A -o jsonpath='{.items[*].spec.ruleSelector}' shows it; "
            "give it as operator.labels. A new rule takes up to two minutes."
        )
    for group in groups:
        for rule in group["rules"]:
            if group["name"] in wanted and rule["health"] == "err":
                yield f"Prometheus cannot evaluate {rule['name']}: {rule.get('lastError', '')}"


def pool_problems(prometheus, pool):
    """Whether Prometheus looks for targets on behalf of the monitor."""
    if pool not in data(prometheus, "scrape_pools")["scrapePools"]:
        yield (
            f"Prometheus does not look for targets of {pool}. Does its podMonitorSelector ask for a label? "
            "kubectl get prometheus -A -o jsonpath='{.items[*].spec.podMonitorSelector}' shows it; "
            "give it as operator.labels. Does it have the right to list pods?"
        )
        return
    targets = data(prometheus, "targets?state=active")["activeTargets"]
    of_pool = [target for target in targets if target["scrapePool"] == pool]
    for target in of_pool:
        if target["health"] == "down":
            yield f"{target['scrapeUrl']} cannot be scraped: {target['lastError']}"
    print(f"{len(of_pool)} targets of {pool} now; a job's pods join by label and port")


def problems(arguments):
    """All that is not as it should be."""
    if arguments.prometheus:
        yield from rule_problems(arguments.prometheus, arguments.group)
        if arguments.pool:
            yield from pool_problems(arguments.prometheus, arguments.pool)
    if arguments.health:
        fetch(arguments.health)


def main():
    """Print each problem; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prometheus", metavar="URL")
    parser.add_argument("--pool", metavar="NAME", help="scrape pool of the monitor")
    parser.add_argument("--group", action="append", default=[], help="group of rules that must be loaded")
    parser.add_argument("--health", metavar="URL", help="page that must answer")
    arguments = parser.parse_args()
    found = 0
    try:
        for problem in problems(arguments):
            found += 1
            print(f"NOT OK: {problem}")
    except (urllib.error.URLError, OSError) as error:
        found += 1
        print(f"NOT OK: {getattr(error, 'url', None) or arguments.prometheus or arguments.health}: {error}")
    if not found:
        print(f"OK: {len(arguments.group)} groups of rules are loaded")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
