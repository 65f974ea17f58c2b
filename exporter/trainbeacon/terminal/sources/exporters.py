"""Exporters, by their address: one each, asked for what is shown and nothing else."""

from __future__ import annotations

import http.client
import ssl
import urllib.parse

from trainbeacon.terminal.sources.base import FactSource
from trainbeacon.terminal.table import Look
from trainbeacon.terminal.wanted import WANTED

_SECONDS_TO_ANSWER = 5.0
_QUERY = urllib.parse.urlencode([("name[]", name) for name in WANTED])


class ExporterSource(FactSource):
    """One exporter; the connection is kept. An address without a path means `/metrics`."""

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no address of an exporter: give http://HOST:PORT/metrics")
        self._parts = parts
        self._path = parts.path if parts.path.strip("/") else "/metrics"
        self._connection: http.client.HTTPConnection | None = None
        super().__init__(parts.netloc.rpartition("@")[2])

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _take(self) -> Look:
        kept = self._connection is not None
        try:
            page = self._get()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if not kept:
                raise _as_os_error(error) from error
            try:  # a connection that was kept may have been closed by the other side meanwhile
                page = self._get()
            except (OSError, http.client.HTTPException) as again:
                self.close()
                raise _as_os_error(again) from again
        look = self._table.new_look(self._clock())
        self._table.read_page(look, page)
        return look

    def _get(self) -> bytes:
        if self._connection is None:
            self._connection = self._connect()
        self._connection.request("GET", f"{self._path}?{_QUERY}", headers=self._headers())
        with self._connection.getresponse() as answer:
            page = answer.read()
            if answer.status != 200:
                raise OSError(f"it answers {answer.status} {answer.reason}")
        return page

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=_SECONDS_TO_ANSWER)
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(host, port, timeout=_SECONDS_TO_ANSWER, context=context)

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "text/plain;version=0.0.4"}
        if self._parts.username is not None:
            import base64

            user, password = (
                urllib.parse.unquote(each or "") for each in (self._parts.username, self._parts.password)
            )
            headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        return headers


def _as_os_error(error: Exception) -> OSError:
    return error if isinstance(error, OSError) else OSError(str(error) or type(error).__name__)
