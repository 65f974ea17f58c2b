"""Metrics of what is learned: quality, gradients and weights, layers, input data."""

from __future__ import annotations

from .metric import Label, Metric, facts

SPLITS = ("train", "validation", "test")
#: Layers that are served.
MOST_LAYERS = 6

_SPLIT = Label("split", "the data the value was computed on", SPLITS)
_GROUP = Label("group", "index of the optimizer's parameter group", ("0", "1", "2", "3"))

_LAYER = Label("layer", "name of the module that holds the weights", limit=MOST_LAYERS)

_QUALITY = (
    Metric("quality", "training_loss", "gauge", "", "Loss as last logged.", (_SPLIT,)),
    Metric(
        "quality", "training_accuracy_ratio", "gauge", "ratio", "Accuracy as last logged, 0 to 1.", (_SPLIT,)
    ),
    Metric(
        "quality",
        "training_metric",
        "gauge",
        "",
        "Any scalar that the script logs under a name of its own (precision, perplexity, ...).",
        (Label("name", "the name given to log()", limit=40), _SPLIT),
        level="run",
    ),
    Metric(
        "quality",
        "training_evaluations_since_best",
        "gauge",
        "",
        "Evaluations since the lowest loss of that split; 0 when the last evaluation was the best.",
        (_SPLIT,),
    ),
    Metric(
        "quality",
        "training_loss_rises",
        "gauge",
        "",
        "Consecutive increases of the loss, from one evaluation or 50 training losses to the next.",
        (_SPLIT,),
        level="run",
    ),
    Metric(
        "quality", "training_best_loss", "gauge", "", "Lowest loss of any evaluation.", (_SPLIT,), level="run"
    ),
    Metric(
        "quality",
        "training_overfitting_evaluations",
        "gauge",
        "",
        "Evaluations in a row with validation clearly worse than at its best while training became better.",
        level="run",
    ),
    Metric(
        "quality",
        "training_loss_spikes_total",
        "counter",
        "",
        "Training losses far above the recent course of the loss; every logged one is checked.",
    ),
    Metric(
        "quality",
        "training_loss_nonfinite_total",
        "counter",
        "",
        "Training losses that were NaN or infinite; every logged one is checked.",
    ),
    Metric(
        "quality",
        "training_learning_rate",
        "gauge",
        "",
        "Learning rate of the optimizer's parameter group.",
        (_GROUP,),
    ),
)

_GRADIENTS = (
    Metric(
        "gradients and weights",
        "training_gradient_norm",
        "gauge",
        "",
        "Norm of all gradients before clipping.",
    ),
    Metric(
        "gradients and weights",
        "training_gradient_norm_step",
        "gauge",
        "",
        "Step that training_gradient_norm of rank 0 is of: the last one, or the last that was sampled.",
        level="run",
    ),
    Metric(
        "gradients and weights",
        "training_gradient_clipped_total",
        "counter",
        "",
        "Steps whose gradients were scaled down by torch's functions that clip to a norm.",
    ),
    Metric(
        "gradients and weights",
        "training_gradient_nonfinite_total",
        "counter",
        "",
        "Steps whose gradient norm was NaN or infinite.",
    ),
    Metric(
        "gradients and weights",
        "training_parameter_norm",
        "gauge",
        "",
        "L2 norm of the trained parameters, sampled.",
    ),
    Metric(
        "gradients and weights",
        "training_update_ratio",
        "gauge",
        "ratio",
        "Norm of an optimizer step over the norm of the parameters, sampled over part of the weights.",
    ),
    Metric(
        "gradients and weights",
        "training_loss_scale",
        "gauge",
        "",
        "Loss scale of the AMP gradient scaler.",
    ),
    Metric(
        "gradients and weights",
        "training_optimizer_steps_skipped_total",
        "counter",
        "",
        "Optimizer steps that the AMP gradient scaler skipped because of non-finite gradients.",
    ),
    Metric(
        "gradients and weights",
        "training_gradient_squared_norm",
        "gauge",
        "",
        "Sum of the squares of this rank's own gradient shards, sampled.",
    ),
    Metric(
        "gradients and weights",
        "training_parameter_squared_norm",
        "gauge",
        "",
        "Sum of the squares of this rank's own parameter shards, sampled.",
    ),
    Metric(
        "gradients and weights",
        "training_nonfinite_first_step",
        "gauge",
        "",
        "Step in which NaN or infinity last appeared anew on this rank: in a loss, a weight or a gradient.",
    ),
    Metric(
        "gradients and weights",
        "training_nonfinite_info",
        "info",
        "",
        "Where the NaN or infinity of that step was first seen.",
        facts(
            layer="module in which it arose, a..b for one of several, empty where that is not known",
            kind="weight, input, activation, loss, gradient, or reduced: in the average over ranks only",
        ),
    ),
)


def _layer(name: str, unit: str, help: str) -> Metric:
    return Metric("layers", name, "gauge", unit, help, (_LAYER,), level="run")


_LAYERS = (
    _layer("training_layer_gradient_norm", "", "Norm of the gradient of the layer's weights, sampled."),
    _layer("training_layer_gradient_mean", "", "Mean of the gradient of the layer's weights, sampled."),
    _layer("training_layer_zero_ratio", "ratio", "Share of the layer's gradient that is exactly 0, sampled."),
    _layer("training_layer_weight_norm", "", "Norm of the layer's weights, sampled."),
    _layer("training_layer_weight_stddev", "", "Standard deviation of the layer's weights, sampled."),
)

_FEATURE = Label("feature", "name of the input feature", limit=4)
_STAGE = Label("stage", "before or after the script's own preparation", ("raw", "prepared"))


def _data(name: str, unit: str, help: str, *labels: Label) -> Metric:
    return Metric("input data", name, "gauge", unit, help, labels, level="run")


_DATA = (
    _data("training_input_mean", "", "Mean of the feature in the last sampled batch.", _FEATURE, _STAGE),
    _data(
        "training_input_stddev",
        "",
        "Standard deviation of the feature in the last sampled batch.",
        _FEATURE,
        _STAGE,
    ),
    _data(
        "training_input_missing_ratio",
        "ratio",
        "Share of NaN in the feature in the last sampled batch.",
        _FEATURE,
        _STAGE,
    ),
    _data(
        "training_input_drift",
        "",
        "Distance of the feature's mean from that of the first batches, in their standard deviations.",
        _FEATURE,
    ),
    _data(
        "training_class_ratio",
        "ratio",
        "Share of the class among the samples seen recently.",
        Label("class", "the class", limit=10),
    ),
)

LEARNING = (*_QUALITY, *_GRADIENTS, *_LAYERS, *_DATA)
