"""`trainbeacon doctor`: why no number, or no message, arrives."""

from __future__ import annotations

import argparse
import json

NAME = "doctor"
HELP = "follow a number from the trainer to the pager and say where it stops"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="look at these before they are deployed: configurations of Prometheus and Alertmanager, rules,"
        " values of the chart, manifests",
    )
    parser.add_argument("--directory", metavar="DIR", help="folder of black boxes (default: all of yours)")
    parser.add_argument("--prometheus", default="", metavar="URL", help="default: that of `trainbeacon up`")
    parser.add_argument(
        "--alertmanager", default="", metavar="URL", help="default: the one that Prometheus sends to"
    )
    parser.add_argument("--grafana", default="", metavar="URL", help="default: that of `trainbeacon up`")
    parser.add_argument(
        "--test-alert", action="store_true", help="send one alert and follow it to its receiver"
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="CODE | AREA", help="look at these: TB4, TB301, rules"
    )
    parser.add_argument("--list", action="store_true", help="list codes and areas, and look at nothing")
    parser.add_argument("--json", action="store_true", help="print JSON, and nothing else")
    parser.add_argument("--verbose", action="store_true", help="print what is in order or left out too")
    parser.add_argument("--strict", action="store_true", help="exit with 1 on warnings")
    parser.add_argument(
        "--env", action="store_true", help="print versions for a bug report, and look at nothing"
    )


def run(arguments: argparse.Namespace) -> int:
    """Look: 0 all is well, 1 warnings with --strict, 2 something is broken, 3 something cannot be seen."""
    from trainbeacon.config.settings import Config, ConfigError
    from trainbeacon.doctor import visit
    from trainbeacon.doctor.context import Context

    if arguments.env:
        print("\n".join(visit.environment()))
        return 0
    if arguments.list:
        for check in visit.CHECKS:
            for code, title in check.codes.items():
                print(f"{code}  {check.area:<14}{title}")
        return 0
    try:
        configured = Config.load({}).directory
    except ConfigError:  # said as TB101
        configured = None
    context = Context(
        prometheus=arguments.prometheus,
        alertmanager=arguments.alertmanager,
        grafana=arguments.grafana,
        files=arguments.files,
        test_alert=arguments.test_alert,
        directory=arguments.directory or configured or "",
    )
    results = visit.visit(context, arguments.only)
    if arguments.json:
        print(json.dumps(visit.document(results), indent=1))
    else:
        print("\n".join(visit.lines(results, verbose=arguments.verbose)))
    return visit.exit_status(results, strict=arguments.strict)
