"""`trainbeacon notify`: deliver Alertmanager's messages to services that it has no receiver for."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainbeacon.notify.settings import Settings

NAME = "notify"
HELP = "a webhook for Alertmanager that delivers through Apprise: DingTalk, Feishu, WeCom, SMS, phones"

PORT = 9798
#: Requests that wait for their delivery at one time.
THREADS = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--config", metavar="FILE", required=True, help="YAML file of receivers (docs/notify.md)"
    )
    parser.add_argument("--web-config", metavar="FILE", help="web config file: TLS and passwords")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=PORT, help=f"port to listen on (default: {PORT})")
    parser.add_argument("--check", action="store_true", help="only say whether the settings are good")
    parser.add_argument("--test", metavar="RECEIVER", help="send this receiver a test message, and end")


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal, check the settings, or send a test message."""
    from trainbeacon.config.settings import ConfigError
    from trainbeacon.notify.settings import Settings, SettingsError, addresses

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for package in ("apprise", "markdown_it"):
        if find_spec(package) is None:
            return _failed(f"the package {package} is missing: pip install 'trainbeacon[notify]'")
    try:
        settings = Settings.load(arguments.config)
        for receiver in settings.receivers.values():
            addresses(receiver)
        if arguments.check:
            print(f"{arguments.config}: good; receivers {', '.join(settings.receivers)}")
            return 0
        return _test(settings, arguments.test) if arguments.test else _serve(settings, arguments)
    except (SettingsError, ConfigError) as error:
        return _failed(str(error))
    except OSError as error:
        return _failed(error.strerror or str(error))


def _serve(settings: Settings, arguments: argparse.Namespace) -> int:
    from trainbeacon.exporter.http.limits import Limits
    from trainbeacon.exporter.http.server import Server
    from trainbeacon.exporter.http.webconfig import WebConfigFile
    from trainbeacon.notify.runbooks import Runbooks
    from trainbeacon.notify.service import MOST_BODY_BYTES, Bridge
    from trainbeacon.notify.services import post
    from trainbeacon.stack.bundle import runbooks_dir

    web = WebConfigFile(arguments.web_config)
    bridge = Bridge(settings, post, web, Runbooks(runbooks_dir()))
    server = Server(
        bridge,
        bridge.counts,
        arguments.host,
        arguments.port,
        web,
        limits=Limits(threads=THREADS, body_bytes=MOST_BODY_BYTES),
    )
    if server.moved:  # Alertmanager knows the port
        server.stop()
        return _failed(f"port={arguments.port} is taken on {arguments.host}: give another --port")
    server.start()
    logging.getLogger("trainbeacon.notify").info("listening on %s:%d", server.host, server.port)
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    over.wait()
    bridge.stop()
    server.stop()
    return 0


def _test(settings: Settings, name: str) -> int:
    from trainbeacon.notify.message import Message
    from trainbeacon.notify.services import post
    from trainbeacon.notify.settings import addresses

    receivers = settings.receivers
    if name not in receivers:
        return _failed(f"--test {name}: there is no such receiver; there are {', '.join(receivers)}")
    message = Message("TrainBeacon: a test", "This address takes the messages of TrainBeacon.", "info")
    taken = [post(url, message, receivers[name].format) for url in addresses(receivers[name])]
    for number, good in enumerate(taken, 1):
        print(f"address {number}: {'delivered' if good else 'failed'}")
    return 0 if all(taken) else 1


def _failed(reason: str) -> int:
    print(f"trainbeacon notify: {reason}", file=sys.stderr)
    return 2
