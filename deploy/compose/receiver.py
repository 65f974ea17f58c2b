"""Prints each alert that Alertmanager sends, a line each; for compose, in the image that has the package."""

import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

from trainbeacon.notify.webhook import Notification, PayloadError
from trainbeacon.notify.wording import in_order, title


class Handler(BaseHTTPRequestHandler):
    """Takes any POST for a message of Alertmanager's."""

    def do_POST(self):
        """Print the message and say that it arrived."""
        try:
            message = Notification.parse(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        except (PayloadError, ValueError):
            return self._answer(400)
        for alert in in_order(message.alerts):
            print(
                f"{message.receiver}: {title([alert])}: {alert.annotations.get('description', '')}",
                flush=True,
            )
        return self._answer(200)

    def _answer(self, status):
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format, *arguments):
        """Say nothing of requests."""


if __name__ == "__main__":
    HTTPServer(("", int(sys.argv[1])), Handler).serve_forever()
