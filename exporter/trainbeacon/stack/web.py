"""HTTP GET on loopback, past any proxy that the environment names."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def get(url: str, seconds: float = 5.0, **parameters: str) -> str:
    """The body of a page; raises OSError without one, with what the server said."""
    query = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
    try:
        with _OPENER.open(url + query, timeout=seconds) as answer:
            body: bytes = answer.read()
    except urllib.error.HTTPError as error:
        with error:
            raise OSError(f"{url}: {error.code} {error.read(500).decode(errors='replace')}") from error
    return body.decode()


def get_json(url: str, seconds: float = 5.0, **parameters: str) -> Any:
    """The body of a page as JSON."""
    return json.loads(get(url, seconds, **parameters))


def answers(url: str) -> bool:
    """Whether a server answers there with success."""
    try:
        get(url, 1.0)
    except OSError:
        return False
    return True
