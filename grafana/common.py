"""What the dashboards share: variables, selectors, links, annotations, limits and colours."""

from __future__ import annotations

from grafana.dashboard import Annotation, Variable
from grafana.panels import Steps

#: Matchers by the name that stands for them in an expression. All of a variable is `.*`, which also
#: matches a label that does not exist.
PLACE = 'cluster=~"$cluster", namespace=~"$namespace"'
RUN = f'{PLACE}, run="$run"'
SELECTORS = {
    "place": PLACE,
    "runs": f'{PLACE}, run=~"$run"',
    "run": RUN,
    "ranks": f'{RUN}, rank=~"$rank"',
}

CLUSTER = Variable("cluster", "Cluster", "label_values(training_state, cluster)")
NAMESPACE = Variable("namespace", "Namespace", 'label_values(training_state{cluster=~"$cluster"}, namespace)')
PROJECT = Variable("project", "Project", "label_values(run:training_run:known{<place>}, project)")
RUN_QUERY = 'label_values(run:training_run:known{<place>, project=~"$project"}, run)'
ONE_RUN = Variable("run", "Run", RUN_QUERY, several=False)
#: All are the runs of the chosen project, by name.
RUNS = Variable("run", "Run", RUN_QUERY, whole="")
RANK = Variable("rank", "Rank", "label_values(training_state{<run>}, rank)", numeric=True)

PLACES = (CLUSTER, NAMESPACE, PROJECT)
_PLACES = tuple(variable.name for variable in PLACES)
RUN_VARIABLES = (*PLACES, ONE_RUN)
RANK_VARIABLES = (*RUN_VARIABLES, RANK)

ALERTS = "Train(ing|Beacon).*"

#: An event counts as new for two steps, so that one between two scrapes is not missed.
ANNOTATIONS = (
    Annotation(
        "Firing alerts",
        'max by (alertname, severity) (ALERTS{<run>, alertstate="firing"})',
        title="{{alertname}}",
        text="{{severity}}",
        color="red",
    ),
    Annotation(
        "Starts",
        "time() - max(training_start_timestamp_seconds{<run>}) < bool 30",
        title="Processes started",
        color="purple",
    ),
    Annotation(
        "Checkpoints",
        "time() - max(training_checkpoint_last_success_timestamp_seconds{<run>}) < bool 30",
        title="Checkpoint",
        color="rgba(110, 159, 255, 0.4)",
    ),
)
#: The same of several runs.
FLEET_ANNOTATIONS = (
    Annotation(
        "Firing alerts",
        'max by (alertname, run) (ALERTS{<runs>, alertstate="firing", severity="critical"})',
        title="{{alertname}}",
        text="{{run}}",
        color="red",
    ),
    Annotation(
        "Starts",
        "time() - max by (run) (training_start_timestamp_seconds{<runs>}) < bool 30",
        title="Processes started",
        text="{{run}}",
        color="purple",
    ),
    Annotation(
        "Checkpoints",
        "time() - max by (run) (training_checkpoint_last_success_timestamp_seconds{<runs>}) < bool 30",
        title="Checkpoint",
        text="{{run}}",
        color="rgba(110, 159, 255, 0.4)",
    ),
)

#: What the rules take where a run sets no threshold of its own; a test compares.
LIMITS = {"stall_seconds": 120, "rank_silent_seconds": 30, "straggler_ratio_max": 0.04}


def above(limit: float, color: str = "red", near: float | None = None) -> Steps:
    """Colour from a limit on, and orange from `near` on."""
    warning = ((near, "orange"),) if near is not None else ()
    return ((None, "transparent"), *warning, (limit, color))


ANY = above(1)
SILENT = above(LIMITS["rank_silent_seconds"], near=10)

STATES = {
    "running": "green",
    "finished": "blue",
    "exited": "orange",
    "silent": "red",
    "missing": "red",
    "lost": "red",
    "failed": "red",
    "crashed": "dark-red",
}
#: What `run:training_condition:worst` tells. It has no colours: those are the severity's.
CONDITIONS = {
    0: ("finished", "text"),
    1: ("running", "text"),
    2: ("starting", "text"),
    3: ("evaluating", "text"),
    4: ("checkpointing", "text"),
    5: ("out of sight", "text"),
    6: ("exited", "text"),
    7: ("failed", "text"),
    8: ("stalled", "text"),
    9: ("ranks lost", "text"),
}
#: What `run:training_severity:worst` tells, and the value of an alert's severity.
SEVERITIES = {3: ("critical", "red"), 2: ("warning", "orange"), 1: ("info", "blue")}
ALERT_COLORS = dict(SEVERITIES.values())
#: The severities with what a run has of which nothing fires.
LEVELS = SEVERITIES | {0: ("ok", "green")}
PHASES = {
    "init": "#8e8e8e",
    "resume": "#6e7a8a",
    "compile": "#705da0",
    "warmup": "#a3a3c2",
    "data_wait": "#ff9830",
    "h2d": "#ffcb7d",
    "forward": "#5794f2",
    "backward": "#1f60c4",
    "optimizer": "#56a64b",
    "communication": "#37465a",
    "evaluate": "#b877d9",
    "checkpoint": "#fade2a",
    "other": "#5a5a5a",
}
#: What the time of a run went into.
KINDS = {
    "productive": "green",
    "evaluate": "#b877d9",
    "checkpoint": "#fade2a",
    "data_wait": "#ff9830",
    "init": "#8e8e8e",
    "stalled": "red",
    "lost": "dark-red",
    "idle": "#3a3a3a",
    "other": "#5a5a5a",
}


def link(dashboard: str, *kept: str, **labels: str) -> str:
    """The address of another dashboard for what was clicked on; time, place and `kept` variables stay.

    `labels` are its variables by the name of the table's column: `link("ranks", "run", rank="rank")`. With
    those of `PLACED` the place is that of the row, see `placed`.
    """
    stay = "&".join(
        f"${{{name}:queryparam}}" for name in ("datasource", *_PLACES, *kept) if name not in labels
    )
    chosen = "".join(f"&var-{name}=${{__data.fields.{column}}}" for name, column in labels.items())
    return f"/d/trainbeacon-{dashboard}?{stay}{chosen}&${{__url_time_range}}"


#: The variables of a place, and the labels by which `placed` says them.
PLACED = {"cluster": "in_cluster", "namespace": "in_namespace"}


def placed(expr: str) -> str:
    """An expression with cluster and namespace in labels that are always there: All where there is none.

    A link to a field that a row lacks would lead nowhere.
    """
    for name, copy in PLACED.items():
        expr = f'label_replace({expr}, "{copy}", "$$__all", "", "")'
        expr = f'label_replace({expr}, "{copy}", "$1", "{name}", "(.+)")'
    return expr


def urgency(alerts: str) -> str:
    """Severity of the firing alerts that the matchers choose, as a number: 3 critical, 2 warning, 1 info."""
    return " or ".join(
        f'{number} * max by (alertname, run, rank, instance) (ALERTS{{{alerts}, alertstate="firing", '
        f'severity="{name}"}})'
        for number, (name, _) in SEVERITIES.items()
    )


def since(alerts: str) -> str:
    """Seconds since the firing alerts that the matchers choose became active."""
    return (
        f"max by (alertname, run, rank, instance) (time() - ALERTS_FOR_STATE{{{alerts}}}"
        f' and ignoring (alertstate) ALERTS{{{alerts}, alertstate="firing"}})'
    )
