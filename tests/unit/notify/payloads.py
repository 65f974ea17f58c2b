"""Notifications as Alertmanager's webhook sends them (version 4)."""

from __future__ import annotations

import json
from typing import Any

from trainbeacon.notify.webhook import Notification


def alert(name: str = "TrainingStalled", status: str = "firing", **labels: str) -> dict[str, Any]:
    return {
        "status": status,
        "labels": {"alertname": name, "severity": "critical", "run": "gpt", **labels},
        "annotations": {
            "summary": "The training makes no steps.",
            "description": "Run gpt: rank 3 (host node-7, GPU 0) has not joined.",
            "action": "Look at rank 3.",
            "runbook_url": "https://example.org/runbooks/TrainingStalled.md",
        },
        "startsAt": "2026-03-01T12:34:56.789Z",
        "endsAt": "2026-03-01T12:50:00Z" if status == "resolved" else "0001-01-01T00:00:00Z",
        "fingerprint": "c0ffee",
    }


def annotated(made: dict[str, Any], **annotations: str) -> dict[str, Any]:
    return {**made, "annotations": {**made["annotations"], **annotations}}


def payload(*alerts: dict[str, Any], group: str = "gpt", **fields: Any) -> bytes:
    content = {
        "version": "4",
        "groupKey": f'{{}}:{{run="{group}"}}',
        "receiver": "team",
        "status": "firing",
        "externalURL": "http://alertmanager.example:9093",
        "truncatedAlerts": 0,
        "alerts": list(alerts) or [alert()],
        **fields,
    }
    return json.dumps(content).encode()


def notification(*alerts: dict[str, Any], **fields: Any) -> Notification:
    return Notification.parse(payload(*alerts, **fields))
