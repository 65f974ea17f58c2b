"""Metrics by which the exporter speaks of its own health: a watcher that cannot see must say so."""

from __future__ import annotations

from .metric import Label, Metric, Type, facts

#: Where an error of ours can happen in a training process and in the exporter: the value of `where`
#: in `trainbeacon_errors_total`.
RANK_PLACES = ("value", "device", "hooks", "blackbox", "helper", "exporter")
EXPORTER_PLACES = ("exporter", "collector", "discovery", "server")
PLACES = (*RANK_PLACES, "collector", "discovery", "server")
NVML_STATES = ("ok", "no_library", "no_driver", "no_permission", "failed")
#: Receivers of one `trainbeacon notify`.
MOST_NOTIFY_RECEIVERS = 8
COLLECTORS = ("ranks", "gpu", "host", "user_metrics", "health")

_WHERE = Label("where", "part of TrainBeacon that failed", PLACES)

_RECEIVER = Label("receiver", "name of the receiver", limit=MOST_NOTIFY_RECEIVERS)


def _notify(name: str, type: Type, unit: str, help: str, *labels: Label) -> Metric:
    return Metric("own health", name, type, unit, help, labels, level="node", source="notify")


_NOTIFY = (
    _notify(
        "trainbeacon_notify_requests_total",
        "counter",
        "",
        "Notifications of Alertmanager that `trainbeacon notify` has answered.",
        Label("outcome", "what it answered", ("delivered", "failed", "deferred", "refused")),
    ),
    _notify(
        "trainbeacon_notify_messages_total",
        "counter",
        "",
        "Messages given to the addresses of a receiver.",
        _RECEIVER,
        Label("outcome", "whether the service took it", ("delivered", "failed")),
    ),
    _notify(
        "trainbeacon_notify_last_success_timestamp_seconds",
        "gauge",
        "seconds",
        "Unix time at which a service took the last message of the receiver.",
        _RECEIVER,
    ),
    _notify(
        "trainbeacon_notify_waiting", "gauge", "", "Notifications that wait for their delivery.", _RECEIVER
    ),
)

HEALTH = (
    *_NOTIFY,
    Metric(
        "own health",
        "trainbeacon_build_info",
        "info",
        "",
        "The exporter that answers.",
        facts(version="version of TrainBeacon", python="version of Python", mode="process, thread or agent"),
        level="node",
        source="health",
    ),
    Metric(
        "own health",
        "trainbeacon_clock_timestamp_seconds",
        "gauge",
        "seconds",
        "Unix time by the clock of the node as it answered; rules correct the node's other times by it.",
        level="node",
        source="health",
    ),
    Metric(
        "own health",
        "trainbeacon_collector_success",
        "gauge",
        "",
        "1 if the collector succeeded in this scrape.",
        (Label("collector", "part of the exporter", COLLECTORS),),
        level="node",
        source="health",
    ),
    Metric(
        "own health",
        "trainbeacon_collector_duration_seconds",
        "gauge",
        "seconds",
        "Time that the collector took in this scrape.",
        (Label("collector", "part of the exporter", COLLECTORS),),
        level="node",
        source="health",
    ),
    Metric(
        "own health",
        "trainbeacon_nvml_state",
        "gauge",
        "",
        "1 for the state of the NVIDIA management library on this node, 0 for the others.",
        (Label("state", "what the library answered", NVML_STATES),),
        level="node",
        source="gpu",
    ),
    Metric(
        "own health",
        "trainbeacon_blackboxes",
        "gauge",
        "",
        "Black boxes in the directory by what they are.",
        (Label("state", "live, dead, or not readable", ("live", "dead", "invalid")),),
        level="node",
        source="health",
    ),
    Metric(
        "own health",
        "trainbeacon_profiles_running",
        "gauge",
        "",
        "Ranks of this node that `trainbeacon profile` records now: their steps take longer.",
        level="node",
        source="health",
    ),
    Metric(
        "own health",
        "trainbeacon_run_name_collisions",
        "gauge",
        "",
        "Live processes of the run on this node, beyond one, with the same rank: two jobs of one name.",
        level="run",
        source="health",
    ),
    Metric(
        "own health",
        "trainbeacon_blackboxes_invalid_total",
        "counter",
        "",
        "Black boxes that were truncated, foreign or damaged, counted once a file.",
        level="node",
        source="health",
    ),
    Metric(
        "own health",
        "trainbeacon_errors_total",
        "counter",
        "",
        "Errors of TrainBeacon itself; run and rank are empty for the exporter's own.",
        (_WHERE,),
        source="health",
    ),
    Metric(
        "own health",
        "trainbeacon_series_dropped_total",
        "counter",
        "",
        "Series left out because a budget was spent; run and rank are empty for the exporter's own.",
        source="health",
    ),
    Metric(
        "own health",
        "trainbeacon_requests_refused_total",
        "counter",
        "",
        "HTTP requests and connections that the exporter refused.",
        (
            Label(
                "reason",
                "no such page; not GET or HEAD; no proper HTTP; no or wrong password; TLS handshake or "
                "client certificate; too many at once",
                ("not_found", "method", "malformed", "unauthorized", "tls", "busy"),
            ),
        ),
        level="node",
        source="health",
    ),
)
