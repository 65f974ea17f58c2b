"""The watchers: does every node's exporter answer, see all ranks, and lose nothing."""

from __future__ import annotations

from grafana.common import CLUSTER, NAMESPACE, SELECTORS, above
from grafana.dashboard import Annotation, Dashboard, Row, Variable
from grafana.panels import Band, Query, Stat, StateTimeline, TimeSeries
from grafana.rows.verdict import alerts_of
from grafana.tables import Table

JOB = Variable("job", "Job", "label_values(trainbeacon_build_info{<place>}, job)", whole="")
INSTANCE = Variable(
    "instance", "Instance", "label_values(trainbeacon_build_info{<jobs>}, instance)", whole=""
)
JOBS = f'{SELECTORS["place"]}, job=~"$job"'
NODES = f'{SELECTORS["place"]}, instance=~"$instance"'
SERVED = f'{JOBS}, instance=~"$instance"'

KEY = "by (cluster, namespace, instance)"
STALE = f"time() - min {KEY} (training_heartbeat_timestamp_seconds{{<here>}})"
SLOW = f"sum {KEY} (trainbeacon_collector_duration_seconds{{<here>}})"
FAILED = f"sum {KEY} (1 - trainbeacon_collector_success{{<here>}})"
INVALID = f'max {KEY} (trainbeacon_blackboxes{{<here>, state="invalid"}})'
NOTHING = f"0 * max {KEY} (up{{<here>}})"
ERRORS = f"sum {KEY} (instance_where:trainbeacon_errors:increase5m{{<nodes>}})"
DROPPED = f"max {KEY} (instance:trainbeacon_series_dropped:increase5m{{<nodes>}})"
# The worst first: down, blind in part, damaged boxes, errors, series dropped, slow.
WORST = (
    " and on (cluster, namespace, instance) topk(12,"
    f" sum {KEY} ("
    'label_replace(1e6 * (1 - up{<here>}), "job", "down", "", "")'
    f' or label_replace(1e5 * {FAILED}, "job", "failed", "", "")'
    f' or label_replace(1e4 * {INVALID}, "job", "invalid", "", "")'
    f' or label_replace(100 * {ERRORS}, "job", "errors", "", "")'
    f' or label_replace(10 * {DROPPED}, "job", "dropped", "", "")'
    f' or label_replace({SLOW}, "job", "slow", "", "")))'
)
BLIND = '<place>, alertname=~"TrainBeacon.*"'
PER_SECOND = "sum by ({}) (rate({}{{<here>}}[$__rate_interval]))"

NOW = Row(
    "Can the watchers see",
    (
        alerts_of(
            "Verdict",
            "What fires about the exporters and Prometheus, the most urgent first.",
            BLIND,
            wide=True,
            project=False,
            width=24,
            height=5,
        ),
        Stat(
            "Exporters",
            "One a node. Down: Prometheus cannot scrape it. One that ended with its job is gone instead.",
            (
                Query("count(up{<here>} == 1)", "up"),
                Query("count(up{<here>} == 0)", "down"),
            ),
            width=5,
            colors={"up": "green", "down": "red"},
            empty="none",
        ),
        Stat(
            "Black boxes",
            "One a rank: of running processes, of ended ones that are still served, and damaged ones.",
            Query("sum by (state) (trainbeacon_blackboxes{<here>}) > 0", "{{state}}"),
            width=5,
            colors={"live": "green", "dead": "blue", "invalid": "red"},
            compact=True,
            empty="none",
        ),
        Stat(
            "Collectors failing",
            "That did not do their work in the last scrape.",
            Query("sum by (collector) (1 - trainbeacon_collector_success{<here>}) > 0", "{{collector}}"),
            width=4,
            thresholds=((None, "red"),),
            unit="short",
        ),
        Stat(
            "Errors",
            "Of TrainBeacon itself in the last five minutes, by place. None of them reached the training.",
            Query("sum by (where) (instance_where:trainbeacon_errors:increase5m{<nodes>}) > 0", "{{where}}"),
            width=5,
            decimals=0,
            thresholds=((None, "orange"),),
        ),
        Stat(
            "Series dropped",
            "In the last five minutes, because a budget was spent.",
            "sum(instance:trainbeacon_series_dropped:increase5m{<nodes>})",
            width=5,
            decimals=0,
            thresholds=above(1, "orange"),
        ),
        Table(
            "Exporters to look at",
            "At most twelve, the worst first: down, collectors failing, boxes damaged, errors, series"
            " dropped, slow.",
            (
                Query(
                    f"max {KEY} (1 - up{{<here>}}){WORST}",
                    "scrape",
                    mappings={1: ("down", "red"), 0: ("up", "green")},
                    width=65,
                ),
                Query(f"({FAILED} or {NOTHING}){WORST}", "failing", thresholds=above(1), width=75),
                Query(f"({INVALID} or {NOTHING}){WORST}", "damaged", thresholds=above(1), width=85),
                Query(
                    f"({ERRORS} or {NOTHING}){WORST}",
                    "errors",
                    decimals=0,
                    thresholds=above(1, "orange"),
                    width=75,
                ),
                Query(
                    f"({DROPPED} or {NOTHING}){WORST}",
                    "dropped",
                    decimals=0,
                    thresholds=above(1, "orange"),
                    width=80,
                ),
                Query(f"{SLOW}{WORST}", "collecting", thresholds=above(1, "red", near=0.5), width=95),
                Query(f"{STALE}{WORST}", "oldest sign of life", decimals=0, width=140),
                Query(f"max {KEY} (scrape_samples_scraped{{<here>}}){WORST}", "samples", width=90),
                Query(
                    f'count {KEY} (training_state{{<here>, state="running"}} == 1){WORST}', "ranks", width=65
                ),
            ),
            width=24,
            height=9,
            labels={"instance": 0},
            hidden=("cluster", "namespace"),
            sort=("scrape", "failing", "damaged", "errors", "dropped", "collecting"),
            empty="-",
        ),
    ),
    height=3,
)

SCRAPES = Row(
    "Scrapes",
    (
        StateTimeline(
            "Up",
            "The 24 exporters that were up least in the time shown.",
            Query(
                "max by (instance) (up{<here>}) and on (instance)"
                " bottomk(24, avg by (instance) (avg_over_time(up{<here>}[$__range] @ end())))",
                "{{instance}}",
            ),
            mappings={0: ("down", "red"), 1: ("up", "green")},
            width=12,
        ),
        Band(
            "Duration of a scrape", "As Prometheus measures it.", "scrape_duration_seconds{<here>}", unit="s"
        ),
        Band(
            "Samples of a scrape",
            "Against the scrape's sample_limit.",
            "scrape_samples_scraped{<here>}",
            unit="short",
        ),
        TimeSeries(
            "New series",
            "In the last scrape, all exporters together. A steady stream of them fills Prometheus' memory.",
            "sum(scrape_series_added{<here>})",
            unit="short",
        ),
        TimeSeries(
            "Collectors",
            "Time that each took in a scrape, on the node where it took longest.",
            Query("max by (collector) (trainbeacon_collector_duration_seconds{<here>})", "{{collector}}"),
        ),
        TimeSeries(
            "Collectors at work",
            "Share of the nodes on which each did its work.",
            Query("avg by (collector) (trainbeacon_collector_success{<here>})", "{{collector}}"),
            unit="percentunit",
            maximum=1,
        ),
        TimeSeries(
            "Requests refused",
            "By reason.",
            Query(PER_SECOND.format("reason", "trainbeacon_requests_refused_total"), "{{reason}}"),
            unit="cps",
        ),
    ),
    collapsed=True,
)

SIGHT = Row(
    "What they see",
    (
        TimeSeries(
            "Black boxes",
            "All nodes together.",
            Query("sum by (state) (trainbeacon_blackboxes{<here>})", "{{state}}"),
            colors={"live": "green", "dead": "blue", "invalid": "red"},
        ),
        TimeSeries(
            "Age of a rank's last sign of life",
            "At the moment of the scrape, of the rank heard of longest ago: what is served is no older.",
            "max(instance:training_silence_seconds:at_scrape{<nodes>})",
        ),
        TimeSeries(
            "Errors",
            "Of TrainBeacon itself, by place, over five minutes.",
            Query("sum by (where) (instance_where:trainbeacon_errors:increase5m{<nodes>})", "{{where}}"),
            bars=True,
        ),
        TimeSeries(
            "NVIDIA's library",
            "Nodes by the state of NVML. Without a driver a node has no GPU metrics, and that is no fault.",
            Query("sum by (state) (trainbeacon_nvml_state{<here>})", "{{state}}"),
            stacked=True,
            colors={"ok": "green", "no_driver": "blue", "no_library": "blue", "failed": "red"},
        ),
    ),
    collapsed=True,
)

VERSIONS = Row(
    "Versions and Prometheus",
    (
        Table(
            "Versions",
            "Exporters by version and way of serving.",
            Query("count by (version, python, mode) (trainbeacon_build_info{<here>})", "exporters"),
            labels={"version": 0, "python": 70, "mode": 70},
            width=6,
        ),
        TimeSeries(
            "Boxes refused",
            "Truncated, foreign or damaged files, counted once each.",
            "sum(increase(trainbeacon_blackboxes_invalid_total{<here>}[$__rate_interval]))",
            bars=True,
            width=6,
        ),
        TimeSeries(
            "Rules",
            "Time that a group of our rules takes, where Prometheus scrapes itself.",
            Query(
                "topk(8, max by (rule_group) (prometheus_rule_group_last_duration_seconds"
                '{rule_group=~".*trainbeacon.*"}))',
                "{{rule_group}}",
            ),
            unit="s",
            width=6,
            empty="Prometheus does not scrape itself",
        ),
        TimeSeries(
            "Failed rules",
            "Evaluations of our rules that failed, where Prometheus scrapes itself.",
            Query(
                "sum by (rule_group) (increase("
                'prometheus_rule_evaluation_failures_total{rule_group=~".*trainbeacon.*"}[$__rate_interval]))',
                "{{rule_group}}",
            ),
            unit="short",
            bars=True,
            width=6,
            empty="Prometheus does not scrape itself",
        ),
    ),
    collapsed=True,
)

DASHBOARD = Dashboard(
    "TrainBeacon / Exporters",
    "The watchers: does every node's exporter answer, see all ranks, and lose nothing.",
    (NOW, SCRAPES, SIGHT, VERSIONS),
    variables=(CLUSTER, NAMESPACE, JOB, INSTANCE),
    selectors={"jobs": JOBS, "here": SERVED, "nodes": NODES} | SELECTORS,
    annotations=(
        Annotation(
            "Firing alerts",
            f'max by (alertname, instance) (ALERTS{{{BLIND}, alertstate="firing"}})',
            title="{{alertname}}",
            text="{{instance}}",
            color="red",
        ),
    ),
    since="now-1h",
)
