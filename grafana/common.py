"""What the dashboards share: variables, selectors, annotations and colours."""

from __future__ import annotations

from grafana.dashboard import Annotation, Variable

#: Matchers by the name that stands for them in an expression. All of a variable is `.*`, which also
#: matches a label that does not exist.
PLACE = 'cluster=~"$cluster", namespace=~"$namespace"'
RUN = f'{PLACE}, run="$run"'
SELECTORS = {"place": PLACE, "run": RUN, "ranks": f'{RUN}, rank=~"$rank"'}

VARIABLES = (
    Variable("cluster", "Cluster", "label_values(training_state, cluster)"),
    Variable("namespace", "Namespace", 'label_values(training_state{cluster=~"$cluster"}, namespace)'),
    Variable("run", "Run", "label_values(training_state{<place>}, run)", several=False),
    Variable("rank", "Rank", "label_values(training_state{<run>}, rank)", numeric=True),
)

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

STATES = {
    "running": "green",
    "finished": "blue",
    "exited": "orange",
    "silent": "red",
    "missing": "red",
    "failed": "red",
    "crashed": "dark-red",
}
ALERT_COLORS = {"critical": "red", "warning": "orange", "info": "blue"}
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
    "communication": "#8ab8ff",
    "evaluate": "#b877d9",
    "checkpoint": "#fade2a",
    "other": "#5a5a5a",
}
