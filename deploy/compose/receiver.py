"""Prints each alert that Alertmanager sends, a line each; for compose. Needs nothing but Python."""

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer


class Handler(BaseHTTPRequestHandler):
    """Takes any POST for a message of Alertmanager's."""

    def do_POST(self):
        """Print the message and say that it arrived."""
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        for alert in body["alerts"]:
            labels, notes = alert["labels"], alert["annotations"]
            words = [
                alert["status"].upper(),
                labels["alertname"],
                labels.get("run", ""),
                labels.get("rank", ""),
            ]
            print(
                f"{body['receiver']}: {' '.join(filter(None, words))}: {notes.get('description', '')}",
                flush=True,
            )
        self.send_response(200)
        self.end_headers()

    def log_message(self, format, *arguments):
        """Say nothing of requests."""


if __name__ == "__main__":
    HTTPServer(("", int(sys.argv[1])), Handler).serve_forever()
