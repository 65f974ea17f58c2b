"""What one run learns: gradients, weights, layers, numbers that are not finite, input data."""

from __future__ import annotations

from grafana.common import ANNOTATIONS, ANY, RUN_VARIABLES, SELECTORS, above
from grafana.dashboard import Dashboard, Row
from grafana.panels import Band, BarGauge, Query, Stat, TimeSeries
from grafana.rows.verdict import verdict
from grafana.tables import Table

EVENTS = "sum(increase({}{{<run>}}[$__rate_interval]))"
IN_RANGE = "sum(increase({}{{<run>}}[$__range]))"
FIRST = "min by (rank) (last_over_time(training_nonfinite_first_step{<run>}[$__range]))"
EARLIEST = f" and on (rank) bottomk(8, {FIRST})"


def layers(metric: str) -> Query:
    """One line for each layer that rank 0 reports: at most six at a time."""
    return Query(f"max by (layer) ({metric}{{<run>}})", "{{layer}}")


def inputs(metric: str) -> Query:
    """One line for each feature and stage."""
    return Query(f"max by (feature, stage) ({metric}{{<run>}})", "{{feature}} {{stage}}")


BROKEN = Row(
    "What broke first",
    (
        verdict(),
        Stat(
            "Not finite",
            "In the time shown, over all ranks: losses and gradient norms that were NaN or infinite.",
            (
                Query(IN_RANGE.format("training_loss_nonfinite_total"), "losses", thresholds=ANY),
                Query(IN_RANGE.format("training_gradient_nonfinite_total"), "gradients", thresholds=ANY),
            ),
            decimals=0,
            width=5,
        ),
        Stat(
            "Gradient norm",
            "Before clipping, greatest of the ranks; beside it, the median of the time shown.",
            (
                Query("max(training_gradient_norm{<run>})", "now"),
                Query("max(quantile_over_time(0.5, training_gradient_norm{<run>}[$__range]))", "median"),
            ),
            decimals=2,
            empty="no gradients",
            width=5,
        ),
        Stat(
            "Update ratio",
            "Norm of a step over the norm of the weights: about 0.001 is usual, far less learns nothing.",
            "max(training_update_ratio{<run>})",
            unit="percentunit",
            decimals=3,
            empty="unknown",
            width=5,
        ),
        Stat(
            "Loss scale",
            "Of the AMP gradient scaler, smallest of the ranks. It halves with each step that is skipped.",
            "min(training_loss_scale{<run>})",
            thresholds=((None, "red"), (2, "transparent")),
            empty="no AMP",
            width=5,
        ),
        Stat(
            "Loss spikes",
            "In the time shown, on the rank that saw most.",
            "max(increase(training_loss_spikes_total{<run>}[$__range]))",
            thresholds=above(1, "orange"),
            width=4,
            decimals=0,
        ),
        Table(
            "First NaN or infinity",
            "The eight ranks that saw one first, and where; the average of the gradients carries it to all"
            " others. Look at that layer, and at the batch of that step.",
            (
                Query(
                    "max by (rank, layer, kind) (last_over_time(training_nonfinite_info{<run>}[$__range]))"
                    + EARLIEST
                ),
                Query(
                    "max by (rank, hostname) (last_over_time(run_rank:training_rank:info{<run>}[$__range]))"
                    + EARLIEST
                ),
                Query(FIRST + EARLIEST, "step", width=80, thresholds=above(0), unit="none"),
            ),
            labels={"rank": 60, "layer": 0, "kind": 90, "hostname": 120},
            width=12,
            height=7,
            sort=("step",),
            ascending=True,
            empty="none: all finite",
        ),
        TimeSeries(
            "Spikes, values not finite, skipped steps",
            "Events of all ranks. Every loss and gradient norm is judged, not only those scraped.",
            (
                Query(EVENTS.format("training_loss_spikes_total"), "loss spikes"),
                Query(EVENTS.format("training_loss_nonfinite_total"), "losses not finite"),
                Query(EVENTS.format("training_gradient_nonfinite_total"), "gradients not finite"),
                Query(EVENTS.format("training_optimizer_steps_skipped_total"), "steps skipped"),
            ),
            width=12,
            height=7,
            bars=True,
            colors={
                "losses not finite": "red",
                "gradients not finite": "orange",
                "loss spikes": "yellow",
                "steps skipped": "purple",
            },
        ),
    ),
    height=3,
)

GRADIENTS = Row(
    "Gradients and weights",
    (
        Band(
            "Gradient norm",
            "Before clipping. The ranks of a data-parallel run agree: the band is a line.",
            "training_gradient_norm{<run>}",
            minimum=None,
            log=True,
        ),
        TimeSeries(
            "Gradient norm of the whole model",
            "Over all shards: the root of the sum of the ranks' own squares, as the rules add them up.",
            "max(run:training_gradient_norm:total{<run>})",
            minimum=None,
            log=True,
        ),
        TimeSeries(
            "Clipped steps",
            "Share of the steps whose gradients were scaled down.",
            "max(rate(training_gradient_clipped_total{<run>}[$__rate_interval]))"
            " / max(rate(training_steps_total{<run>}[$__rate_interval]) > 0)",
            unit="percentunit",
            maximum=1,
        ),
        TimeSeries(
            "Norm of the weights",
            "All trained parameters.",
            "max(run:training_parameter_norm:total{<run>})",
            minimum=None,
        ),
        TimeSeries(
            "Update ratio",
            "Norm of an optimizer step over the norm of the weights.",
            "max(training_update_ratio{<run>})",
            log=True,
            minimum=None,
        ),
        TimeSeries(
            "Learning rate",
            "Of each parameter group of the optimizer.",
            Query("max by (group) (training_learning_rate{<run>})", "group {{group}}"),
        ),
        TimeSeries(
            "Loss scale",
            "Of the AMP gradient scaler, smallest of the ranks.",
            "min(training_loss_scale{<run>})",
            minimum=None,
            log=True,
            empty="no AMP",
        ),
        TimeSeries(
            "Skipped optimizer steps",
            "That the AMP gradient scaler left out, on the rank with most.",
            "max(increase(training_optimizer_steps_skipped_total{<run>}[$__rate_interval]))",
            bars=True,
        ),
    ),
    collapsed=True,
)

LAYERS = Row(
    "Layers",
    (
        BarGauge(
            "Greatest gradients",
            "The layers that rank 0 reports, by the norm of their gradient.",
            Query("topk(6, max by (layer) (training_layer_gradient_norm{<run>}))", "{{layer}}"),
        ),
        TimeSeries(
            "Gradient norm",
            "The layers with the greatest gradients; which ones those are changes slowly.",
            layers("training_layer_gradient_norm"),
            minimum=None,
            log=True,
        ),
        TimeSeries(
            "Gradient mean",
            "Far from 0 against the norm means a gradient that points one way.",
            layers("training_layer_gradient_mean"),
            minimum=None,
        ),
        TimeSeries(
            "Zero gradients",
            "Share of a layer's gradient that is exactly 0: dead units, or a layer that is cut off.",
            layers("training_layer_zero_ratio"),
            maximum=1,
        ),
        TimeSeries("Norm of the weights", "Of each layer.", layers("training_layer_weight_norm"), width=12),
        TimeSeries(
            "Spread of the weights",
            "Standard deviation of each layer's weights.",
            layers("training_layer_weight_stddev"),
            width=12,
        ),
    ),
    collapsed=True,
)

NO_INPUT = "no inputs observed"

DATA = Row(
    "Input data",
    (
        TimeSeries(
            "Drift",
            "Distance of a feature's mean from that of the first batches, in their standard deviations.",
            Query("max by (feature) (training_input_drift{<run>})", "{{feature}}"),
            minimum=None,
            empty=NO_INPUT,
        ),
        TimeSeries(
            "Mean",
            "Of each feature, raw and prepared.",
            inputs("training_input_mean"),
            minimum=None,
            empty=NO_INPUT,
        ),
        TimeSeries(
            "Standard deviation",
            "Of each feature, raw and prepared.",
            inputs("training_input_stddev"),
            minimum=None,
            empty=NO_INPUT,
        ),
        TimeSeries(
            "Missing values",
            "Share of NaN in a feature.",
            inputs("training_input_missing_ratio"),
            maximum=1,
            empty=NO_INPUT,
        ),
        TimeSeries(
            "Classes",
            "Share of each class among the samples seen of late.",
            Query("max by (class) (training_class_ratio{<run>})", "{{class}}"),
            width=12,
            empty="no labels observed",
            stacked=True,
            maximum=1,
        ),
        TimeSeries(
            "Metrics of the script's own",
            "All that the script logs under names of its own.",
            Query("max by (name, split) (training_metric{<run>})", "{{name}} {{split}}"),
            width=12,
            empty="none logged",
            minimum=None,
        ),
    ),
    collapsed=True,
)

DASHBOARD = Dashboard(
    "TrainBeacon / Model",
    "What one run learns: gradients, weights, layers, what was not finite first, and the data that it sees.",
    (BROKEN, GRADIENTS, LAYERS, DATA),
    variables=RUN_VARIABLES,
    selectors=SELECTORS,
    annotations=ANNOTATIONS,
)
