"""Two or more runs side by side: at the same step, and at the same time since they began."""

from __future__ import annotations

from grafana.common import FLEET_ANNOTATIONS, PLACES, RUN_QUERY, SELECTORS
from grafana.dashboard import Dashboard, Row, Variable
from grafana.panels import BarGauge, Query, TimeSeries
from grafana.plots import Trend
from grafana.tables import Matrix, Table

CHOSEN = Variable("run", "Runs", RUN_QUERY, whole=None)

STEPS = "run:training_step:max{<runs>}"
SECONDS = "training_elapsed_seconds{<runs>}"
STEP = f"max by (run) ({STEPS})"
ELAPSED = f"max by (run) ({SECONDS})"
TRAIN = 'max by (run) (run:training_loss:avg{<runs>, split="train"})'
VALIDATION = 'max by (run) (run:training_loss:avg{<runs>, split="validation"})'
ACCURACY = 'max by (run) (run:training_accuracy_ratio:avg{<runs>, split="validation"})'
NORM = "max by (run) (training_gradient_norm{<runs>})"
RATE = "max by (run) (training_learning_rate{<runs>})"
# The last step that all chosen runs have reached, also those that have ended since.
COMMON = f"scalar(min(max by (run) (max_over_time({STEPS}[$__range] @ end()))))"


def at_common(expr: str) -> str:
    """What an expression was when the run had made the last step that all runs have made."""
    return f"last_over_time((({expr}) and on (run) ({STEP} <= {COMMON}))[$__range:])"


def last(series: str) -> str:
    """The last value of a run in the time shown, also of one that has ended."""
    return f"max by (run) (last_over_time({series}[$__range]))"


def best(split: str) -> str:
    """The lowest loss of a split in the time shown."""
    return f'min by (run) (min_over_time(run:training_loss:avg{{<runs>, split="{split}"}}[$__range]))'


SPENT = "sum by (run) (max by (run, kind) (last_over_time(training_run_seconds{{<runs>{}}}[$__range])))"
GOODPUT = SPENT.format(', kind="productive"') + " / " + SPENT.format("")
LOWEST = ("lastNotNull", "min")

SUMMARY = Row(
    "Which is ahead",
    (
        Table(
            "At the same step",
            "At the last step that all the runs chosen have reached in the time shown, by the last sample at"
            " or before it; also of runs that have ended. Lower loss first.",
            (
                Query(
                    "max by (run, project, owner) (last_over_time(run:training_run:known{<runs>}[$__range]))"
                ),
                Query(at_common(STEP), "at step", unit="none", width=80),
                Query(at_common(TRAIN), "training loss", decimals=4, width=110),
                Query(at_common(VALIDATION), "validation loss", decimals=4, width=120),
                Query(at_common(ACCURACY), "accuracy", decimals=1, width=80),
                Query(at_common(ELAPSED), "took", decimals=1, width=90),
                Query(last(STEPS), "last step", unit="none", width=80),
                Query(best("validation"), "best validation loss", decimals=4, width=140),
                Query(
                    last("run:training_samples_per_second:sum{<runs>}"),
                    "samples/s",
                    decimals=0,
                    width=90,
                ),
                Query(
                    GOODPUT,
                    "goodput",
                    decimals=0,
                    unit="percentunit",
                    width=80,
                ),
                Query(last("run:training_world_size:max{<runs>}"), "ranks", width=60),
            ),
            width=24,
            height=6,
            labels={"run": 0, "project": 90, "owner": 90},
            sort=("training loss",),
            ascending=True,
            empty="-",
        ),
    ),
)

BY_STEP = Row(
    "By step",
    (
        Trend(
            "Training loss", "Mean over the ranks, over the step.", TRAIN, x=STEPS, axis="step", calcs=LOWEST
        ),
        Trend(
            "Validation loss",
            "Mean over the ranks, over the step.",
            VALIDATION,
            x=STEPS,
            axis="step",
            calcs=LOWEST,
        ),
        Trend(
            "Validation accuracy",
            "Mean over the ranks, over the step.",
            ACCURACY,
            x=STEPS,
            axis="step",
            empty="not logged",
        ),
    ),
    width=8,
    height=9,
)

MORE = Row(
    "More by step",
    (
        Trend(
            "Gradient norm",
            "Before clipping, greatest of the ranks, over the step.",
            NORM,
            x=STEPS,
            axis="step",
            log=True,
        ),
        Trend(
            "Learning rate",
            "Highest of the parameter groups, over the step.",
            RATE,
            x=STEPS,
            axis="step",
            log=True,
        ),
        Trend(
            "Time to the step",
            "Since the run first began, over all attempts and pauses: the lower line is quicker.",
            ELAPSED,
            x=STEPS,
            axis="step",
        ),
    ),
    width=8,
    height=9,
    collapsed=True,
)

BY_TIME = Row(
    "By time since the run began",
    (
        Trend(
            "Training loss by time",
            "Over the time since a run began.",
            TRAIN,
            x=SECONDS,
            axis="elapsed",
            calcs=LOWEST,
        ),
        Trend(
            "Validation loss by time",
            "Over the time since a run began.",
            VALIDATION,
            x=SECONDS,
            axis="elapsed",
            calcs=LOWEST,
        ),
        Trend("Steps by time", "Over the time since a run began.", STEP, x=SECONDS, axis="elapsed"),
    ),
    width=8,
    height=9,
)

COST = Row(
    "By the clock, and at what cost",
    (
        TimeSeries(
            "Samples per second",
            "All ranks of a run.",
            Query("max by (run) (run:training_samples_per_second:sum{<runs>})", "{{run}}"),
        ),
        TimeSeries(
            "Pace",
            "Steps a second.",
            Query("max by (run) (run:training_steps:rate2m{<runs>})", "{{run}}"),
            unit="cps",
        ),
        BarGauge(
            "Goodput",
            "Share of a run's whole time that was progress.",
            Query(GOODPUT, "{{run}}"),
            unit="percentunit",
            maximum=1,
        ),
        BarGauge(
            "MFU",
            "Model FLOPs delivered over the GPUs' peak, mean over the ranks.",
            Query("avg by (run) (last_over_time(run:training_mfu_ratio:avg5m{<runs>}[$__range]))", "{{run}}"),
            maximum=1,
            empty="unknown",
        ),
    ),
    collapsed=True,
)

PARAMETERS = Row(
    "What differs",
    (
        Matrix(
            "Hyperparameters",
            "As the scripts gave them, a column for each run.",
            Query("max by (run, name, value) (training_hyperparameter_info{<runs>})", "hyperparameters"),
            rows="name",
            columns="run",
            cell="value",
            empty="none given",
        ),
        Matrix(
            "Tags",
            "As the scripts gave them, a column for each run.",
            Query("max by (run, name, value) (training_run_tag_info{<runs>})", "tags"),
            rows="name",
            columns="run",
            cell="value",
            empty="none given",
        ),
    ),
    width=12,
    height=9,
    collapsed=True,
)

DASHBOARD = Dashboard(
    "TrainBeacon / Compare",
    "Two or more runs side by side: at the same step, and at the same time since they began.",
    (SUMMARY, BY_STEP, MORE, PARAMETERS, BY_TIME, COST),
    variables=(*PLACES, CHOSEN),
    selectors=SELECTORS,
    annotations=FLEET_ANNOTATIONS,
    since="now-6h",
)
