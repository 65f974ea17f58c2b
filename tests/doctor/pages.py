"""A small server of pages that an exporter might serve, each with a fault of its own."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_PAGE = """\
# TYPE training_state gauge
training_state{{run="r",rank="0",state="running"}} 1
# TYPE trainbeacon_build_info gauge
trainbeacon_build_info{{version="{version}",python="3.12",mode="process"}} 1
# TYPE trainbeacon_clock_timestamp_seconds gauge
trainbeacon_clock_timestamp_seconds {clock}
# TYPE trainbeacon_collector_success gauge
trainbeacon_collector_success{{collector="gpu"}} {collector}
# TYPE trainbeacon_nvml_state gauge
trainbeacon_nvml_state{{state="{nvml}"}} 1
# TYPE trainbeacon_series_dropped_total counter
trainbeacon_series_dropped_total{{run="r",rank="0"}} {dropped}
# TYPE trainbeacon_errors_total counter
trainbeacon_errors_total{{run="r",rank="0",where="hooks"}} {errors}
"""


def page(**changed: object) -> str:
    """What a healthy exporter serves in short, but for these."""
    healthy = {
        "version": "0.1.0",
        "clock": time.time(),
        "collector": 1,
        "nvml": "ok",
        "dropped": 0,
        "errors": 0,
    }
    return _PAGE.format(**{**healthy, **changed})


class Pages(ThreadingHTTPServer):
    """Serves /slow after four seconds, /clock as of an hour ago, /denied to nobody, /wrong not at all."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        #: What it says as a Grafana.
        self.sources: list[dict[str, str]] = []
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"127.0.0.1:{self.server_address[1]}"

    def close(self) -> None:
        """End it."""
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Pages

    def do_GET(self) -> None:
        name = self.path.partition("?")[0].strip("/")
        status = {"wrong": 404, "denied": 401}.get(name, 200)
        if name == "slow":
            time.sleep(4)
        old = {
            "api/v1/status/buildinfo": {"data": {"version": "2.30.0"}},
            "api/v2/status": {"versionInfo": {"version": "0.20.0"}, "config": {"original": "route: {}"}},
            "api/datasources": self.server.sources,
        }
        text = json.dumps(old[name]) if name in old else page(clock=time.time() - 3600 * (name == "clock"))
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Keep the tests' output for what fails."""
