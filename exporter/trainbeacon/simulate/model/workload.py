"""What the runs of a fleet train: sizes, speeds and schedules, as a script would have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

#: Phases of a step that a rank spends on its own, and those that wait for others.
OWN_PHASES = ("data_wait", "h2d", "forward", "backward", "optimizer", "other")


@dataclass(frozen=True)
class Workload:
    """A kind of training. Times are seconds, and of a rank where they are of a step."""

    name: str
    project: str
    owner: str
    #: Seconds of a step by phase, communication without waiting for slower ranks.
    step: Mapping[str, float]
    samples: int
    tokens: int
    flops: float
    peak_flops: float
    steps_planned: int
    steps_an_epoch: int
    evaluate_every: int
    evaluate_seconds: float
    checkpoint_every: int
    checkpoint_seconds: float
    checkpoint_write_seconds: float
    checkpoint_bytes: float
    loss_first: float
    loss_floor: float
    #: Steps in which the loss loses its first part, and the exponent of the power law that it follows.
    loss_steps: float
    loss_exponent: float
    learning_rate: float
    warmup_steps: int
    memory_bytes: float
    layers: tuple[str, ...]
    init_seconds: float = 12.0
    compile_seconds: float = 0.0
    first_step_seconds: float = 6.0
    has_accuracy: bool = False
    loss_scaling: bool = False
    sharded: bool = False
    asynchronous_checkpoints: bool = False
    hyperparameters: Mapping[str, object] = field(default_factory=dict)
    features: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    @property
    def step_seconds(self) -> float:
        """Seconds of a step when nothing is amiss."""
        return sum(self.step.values())

    def faster(self, speed: float) -> Workload:
        """The same with all of its times divided by `speed`."""
        return replace(
            self,
            step={phase: seconds / speed for phase, seconds in self.step.items()},
            peak_flops=self.peak_flops * speed,
            evaluate_seconds=self.evaluate_seconds / speed,
            checkpoint_seconds=self.checkpoint_seconds / speed,
            checkpoint_write_seconds=self.checkpoint_write_seconds / speed,
            init_seconds=self.init_seconds / speed,
            compile_seconds=self.compile_seconds / speed,
            first_step_seconds=self.first_step_seconds / speed,
        )


def _step(**milliseconds: float) -> Mapping[str, float]:
    return {phase: value / 1000 for phase, value in milliseconds.items()}


WORKLOADS = (
    Workload(
        name="gpt-1b-pretrain",
        project="language",
        owner="nlp",
        step=_step(data_wait=4, h2d=3, forward=118, backward=236, optimizer=22, communication=31, other=6),
        samples=8,
        tokens=16384,
        flops=1.86e14,
        peak_flops=9.89e14,
        steps_planned=340_000,
        steps_an_epoch=42_500,
        evaluate_every=600,
        evaluate_seconds=14.0,
        checkpoint_every=1500,
        checkpoint_seconds=3.5,
        checkpoint_write_seconds=21.0,
        checkpoint_bytes=15.8e9,
        loss_first=10.9,
        loss_floor=2.1,
        loss_steps=60.0,
        loss_exponent=0.36,
        learning_rate=3e-4,
        warmup_steps=2000,
        memory_bytes=61e9,
        layers=("embed_tokens", "layers.0.attn", "layers.11.mlp", "layers.23.attn", "norm", "lm_head"),
        compile_seconds=25.0,
        sharded=True,
        asynchronous_checkpoints=True,
        hyperparameters={"lr": 3e-4, "batch_size": 8, "weight_decay": 0.1, "optimizer": "adamw", "clip": 1.0},
    ),
    Workload(
        name="resnet50-imagenet",
        project="vision",
        owner="perception",
        step=_step(data_wait=9, h2d=6, forward=54, backward=96, optimizer=8, communication=14, other=4),
        samples=256,
        tokens=0,
        flops=6.3e12,
        peak_flops=1.56e14,
        steps_planned=224_000,
        steps_an_epoch=2500,
        evaluate_every=1250,
        evaluate_seconds=11.0,
        checkpoint_every=2500,
        checkpoint_seconds=1.8,
        checkpoint_write_seconds=1.8,
        checkpoint_bytes=205e6,
        loss_first=7.0,
        loss_floor=0.75,
        loss_steps=120.0,
        loss_exponent=0.45,
        learning_rate=0.8,
        warmup_steps=2500,
        memory_bytes=34e9,
        layers=("conv1", "layer1.2.conv3", "layer2.3.conv3", "layer3.5.conv3", "layer4.2.conv3", "fc"),
        has_accuracy=True,
        loss_scaling=True,
        hyperparameters={"lr": 0.8, "batch_size": 256, "momentum": 0.9, "optimizer": "sgd", "augment": "v2"},
        features=("red", "green", "blue"),
        classes=("dog", "cat", "bird", "fish", "vehicle", "other"),
    ),
    Workload(
        name="llama-8b-sft",
        project="language",
        owner="assistants",
        step=_step(data_wait=3, h2d=2, forward=262, backward=540, optimizer=61, communication=118, other=9),
        samples=2,
        tokens=8192,
        flops=4.1e14,
        peak_flops=9.89e14,
        steps_planned=62_000,
        steps_an_epoch=20_700,
        evaluate_every=250,
        evaluate_seconds=24.0,
        checkpoint_every=500,
        checkpoint_seconds=11.0,
        checkpoint_write_seconds=74.0,
        checkpoint_bytes=96e9,
        loss_first=2.2,
        loss_floor=0.9,
        loss_steps=90.0,
        loss_exponent=0.3,
        learning_rate=2e-5,
        warmup_steps=300,
        memory_bytes=70e9,
        layers=("embed_tokens", "layers.0.mlp", "layers.15.attn", "layers.31.mlp", "norm", "lm_head"),
        compile_seconds=40.0,
        init_seconds=30.0,
        sharded=True,
        asynchronous_checkpoints=True,
        hyperparameters={"lr": 2e-5, "batch_size": 2, "warmup": 300, "optimizer": "adamw", "lora": "none"},
    ),
    Workload(
        name="vit-detection",
        project="vision",
        owner="perception",
        step=_step(data_wait=14, h2d=8, forward=96, backward=183, optimizer=12, communication=22, other=7),
        samples=32,
        tokens=0,
        flops=2.9e13,
        peak_flops=3.12e14,
        steps_planned=180_000,
        steps_an_epoch=3660,
        evaluate_every=915,
        evaluate_seconds=32.0,
        checkpoint_every=1830,
        checkpoint_seconds=2.6,
        checkpoint_write_seconds=2.6,
        checkpoint_bytes=1.2e9,
        loss_first=4.6,
        loss_floor=0.55,
        loss_steps=150.0,
        loss_exponent=0.4,
        learning_rate=1e-4,
        warmup_steps=1000,
        memory_bytes=46e9,
        layers=("patch_embed", "blocks.0.attn", "blocks.5.mlp", "blocks.11.attn", "neck", "head"),
        has_accuracy=True,
        loss_scaling=True,
        hyperparameters={"lr": 1e-4, "batch_size": 32, "layer_decay": 0.8, "optimizer": "adamw"},
        features=("red", "green", "blue", "box_area"),
        classes=("person", "car", "bicycle", "sign", "background"),
    ),
)


def workload_of(run: int) -> Workload:
    """The workload of a run by its number."""
    return WORKLOADS[run % len(WORKLOADS)]


def name_of(run: int) -> str:
    """The name of a run by its number: the workload's, and a number from the second one on."""
    again = run // len(WORKLOADS)
    return workload_of(run).name + (f"-{again + 1}" if again else "")
