"""The settings of one beacon: keyword > environment (TRAINBEACON_*) > YAML file, checked at start.

Misuse raises `ConfigError`, which names the setting, where it came from, its value and the fix. Reading
takes no lock and no network; PyYAML is imported only when a file is named.
"""

from __future__ import annotations

import os
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from trainbeacon.config import validation
from trainbeacon.config.redaction import as_text, holds_secret, looks_secret, public_hyperparameters
from trainbeacon.identity.parallel import DIMENSIONS, MOST_INDEX

__all__ = ["Config", "ConfigError", "public_hyperparameters"]

PREFIX = "TRAINBEACON_"
#: Parts of the diagnosis that can be switched off one by one.
PROBES = (
    "activity",
    "allocator",
    "checkpoints",
    "collectives",
    "device_phases",
    "evidence",
    "goodput",
    "gradients",
    "layers",
    "loader",
    "profiler",
    "self_time",
)
#: Trackers whose numbers can be recorded too.
MIRRORS = ("tensorboard", "mlflow", "wandb")
#: Variables with our prefix that are no field of `Config` and that some part of TrainBeacon reads.
OTHER_VARIABLES = frozenset({"TRAINBEACON_CONFIG"})

# Kubernetes puts these into every pod for a Service called trainbeacon or trainbeacon-...: not settings.
_SERVICE_LINK = re.compile(
    rf"{PREFIX}(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_SERVICE_URL = re.compile(r"(tcp|udp|sctp)://")


class ConfigError(ValueError):
    """A setting that cannot be used. The message names it, where it came from, its value and the fix."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of one beacon. Build it with `Config.load`, which checks every value."""

    run: str | None = None
    """Name of the run, the same on all ranks; by default `<script>-<launcher's id>` (see `identity`)."""
    project: str = ""
    """What the run belongs to; shown on dashboards and in notifications."""
    owner: str = ""
    """Whom to notify about the run: a team or a person, as the routes know them."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Texts that describe the run, at most 10; in the environment `name=value,name=value`."""
    hyperparameters: Mapping[str, object] = field(default_factory=dict)
    """What the run was started with, such as `vars(args)`; 20 are served, secrets never."""
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """Limits of this run for the alert rules: names of the catalogue, or `metric:<name>_min` and `_max`."""
    stage: int | None = None
    """Index of the rank's pipeline stage, from 0, where no library knows it (docs/stragglers.md)."""
    tensor_rank: int | None = None
    """The rank's index among those that share each layer."""
    context_rank: int | None = None
    """The rank's index among those that share a sequence."""
    expert_rank: int | None = None
    """The rank's index among those that share the experts."""
    data_rank: int | None = None
    """The rank's index among those that have other data for the same part of the model."""
    steps_planned: int | None = None
    """Steps that the run will take in all, for progress and the estimated end."""
    enabled: bool = True
    """Whether anything is recorded; without it every call does nothing."""
    serve: Literal["process", "thread", "off"] = "process"
    """Who serves /metrics: a process of its own, a thread of the training process, or somebody else."""
    host: str = "::"  # a scraper runs on another machine; loopback is one keyword away
    """Address that the exporter listens on; `::` is every address of IPv6 and IPv4."""
    port: int = 9797
    """TCP port that the exporter listens on; 0 takes any free one."""
    directory: str | None = None
    """Folder of the black boxes; by default one of the user's own in shared memory."""
    web_config: str | None = None
    """Web configuration file with TLS, client certificates and passwords for /metrics (docs/security.md)."""
    linger_seconds: float = 60
    """How long the exporter goes on serving after the last rank of the node ended, in seconds."""
    retention_seconds: float = 3600
    """How long the black box of a dead rank is kept on disk, in seconds."""
    sd_file: str | None = None
    """File that the exporter writes its address to, for Prometheus' `file_sd_configs`."""
    sd_dir: str | None = None
    """Folder shared by the nodes in which each exporter writes such a file under a name of its own."""
    advertise: str | None = None
    """Host name or address written into discovery files; by default the name of the host."""
    gpu: bool = True
    """Whether the exporter reads the GPUs through NVML."""
    probes_off: Sequence[str] = ()
    """Probes to leave out: any of `PROBES`; in the environment `layers,evidence`."""
    evidence_seconds: float = 60
    """Seconds without a step, and ten mean steps, after which a rank keeps evidence of what it does."""
    evidence_dir: str | None = None
    """Folder of that evidence; by default `evidence` beside the black boxes (docs/hangs.md)."""
    stacks_signal: Literal["SIGUSR1", "SIGUSR2"] | None = None
    """Signal upon which a rank writes its stacks for `trainbeacon stacks`; none by default."""
    state_file: str | None = None
    """File in which rank 0 keeps what the run needs to know over restarts (docs/goodput.md); by default
    beside the first path that `checkpoint` or `resume` is given."""
    count_flops: bool = False
    """Whether the FLOPs of the first step are counted, which makes that step slower (docs/goodput.md)."""
    model_flops_per_step: float | None = None
    """Floating-point operations of one step on one rank, forward and backward, where they are known."""
    peak_flops: float | None = None
    """FLOPs a second that the rank's device could make at best; by default from a table of GPUs."""
    user_metrics: bool = True
    """Whether metrics that the script registers with prometheus-client itself are served too."""
    mirror: Sequence[str] = ()
    """Trackers whose numbers are recorded too: any of tensorboard, mlflow, wandb (docs/integrations.md)."""

    @classmethod
    def load(cls, keywords: Mapping[str, object], environ: Mapping[str, str] | None = None) -> Config:
        """The settings from keywords, environment and file, each value from the first that gives it.

        A keyword of None, an empty variable and an empty YAML key count as not given. Mappings are taken
        whole from one source, not merged. The keyword `config` or TRAINBEACON_CONFIG names the YAML file.
        `environ` is the process's own unless given. Raises ConfigError.
        """
        environ = os.environ if environ is None else environ
        found: dict[str, Any] = {}
        for setting in _given(keywords, environ):
            if setting.name not in _READERS:
                raise setting.unknown()
            # What a stronger source overrules must be right all the same: it is a mistake waiting.
            value = setting.read()
            found.setdefault(setting.name, value)
        return cls(**found)


@dataclass(frozen=True)
class _Setting:
    """One value for one setting, with where it came from."""

    name: str
    value: object
    source: str
    written: str
    """The name as it is written in that source."""
    is_text: bool = False
    """Whether the source knows text only, as the environment does."""

    def read(self) -> object:
        """The value as the field wants it."""
        reader = _READERS[self.name]
        try:
            return reader.parse(str(self.value)) if self.is_text else reader.check(self.value)
        except validation.BadValueError as error:
            shown = "" if error.secret else f"{self._shown()} is not usable: "
            raise ConfigError(f"{self._where()}: {shown}{error.problem}. {error.fix}") from None

    def _where(self) -> str:
        return f"{self.written} ({self.source})"

    def _shown(self) -> str:
        """The value as a log may show it."""
        return "***" if holds_secret(as_text(self.value)) else reprlib.repr(self.value)

    def unknown(self) -> ConfigError:
        """The error for a name that is no setting, with the nearest one that is."""
        prefix = PREFIX if self.is_text else ""
        names = {prefix + (name.upper() if prefix else name): name for name in (*_READERS, "config")}
        near = validation.nearest(self.written.removeprefix(prefix), names.values())
        close = [written for written, name in names.items() if name == near]
        fix = f"Did you mean {close[0]}?" if close else f"The settings are {', '.join(names)}."
        value = "***" if looks_secret(self.name) else self._shown()
        return ConfigError(f"{self._where()} = {value}: there is no such setting. {fix}")


def _given(keywords: Mapping[str, object], environ: Mapping[str, str]) -> Iterator[_Setting]:
    """Every value that was given, strongest source first."""
    for name, value in keywords.items():
        if value is not None and name != "config":
            yield _Setting(name, value, "keyword", name)
    for variable, text in environ.items():
        if variable.startswith(PREFIX) and text.strip() and not _is_foreign(variable, text):
            name = variable.removeprefix(PREFIX)
            # Variables are upper case: TRAINBEACON_port is another name, and a mistake.
            known = name.lower() if name.isupper() else variable
            yield _Setting(known, text.strip(), "environment variable", variable, is_text=True)
    if keywords.get("config") is not None:
        yield from _from_file(keywords["config"], "keyword")
    elif path := environ.get("TRAINBEACON_CONFIG", "").strip():
        yield from _from_file(path, "environment variable TRAINBEACON_CONFIG")


def _is_foreign(variable: str, text: str) -> bool:
    """Whether a variable with our prefix is no setting: read elsewhere, or put there by Kubernetes."""
    if variable in OTHER_VARIABLES or _SERVICE_LINK.fullmatch(variable):
        return True
    return variable.endswith("_PORT") and _SERVICE_URL.match(text) is not None


def _from_file(path: object, source: str) -> Iterator[_Setting]:
    """The keys of a YAML file."""
    if not isinstance(path, str | os.PathLike):
        raise ConfigError(f"config ({source}): {reprlib.repr(path)} is no path. {_FILE_FIX}")
    where = f"config ({source}): {os.fspath(path)!r}"
    content = _yaml(path, where)
    if content is not None and not isinstance(content, Mapping):
        raise ConfigError(f"{where} holds no mapping. {_YAML_FIX}")
    for name, value in (content or {}).items():
        if value is not None:
            yield _Setting(str(name), value, f"file {os.fspath(path)}", str(name))


def _yaml(path: str | os.PathLike[str], where: str) -> object:
    import yaml  # takes 15 ms: only for those who name a file

    try:
        with open(path, encoding="utf-8") as file:
            return yaml.safe_load(file)
    except OSError as error:
        raise ConfigError(f"{where} cannot be read: {error.strerror}. {_FILE_FIX}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{where} is not valid YAML: {reason}. {_YAML_FIX}") from error


_FILE_FIX = "Give the path of a YAML file."
_YAML_FIX = "Write one `setting: value` a line."
_WHOLE_LIMIT = 2**53
_READERS: dict[str, validation.Reader] = {
    "run": validation.text("Give a name, or leave it out for the default."),
    "project": validation.text("Give a name.", may_be_empty=True),
    "owner": validation.text("Give the name of a team or a person.", may_be_empty=True),
    "tags": validation.mapping(validation.tags, str, "team=nlp,branch=main"),
    "hyperparameters": validation.mapping(dict, validation.number_or_text, "lr=0.001,optimizer=adam"),
    "thresholds": validation.mapping(
        validation.thresholds, validation.number_in, "loss_max=4,stall_seconds=120"
    ),
    "steps_planned": validation.whole(1, _WHOLE_LIMIT, "Give a whole number above 0."),
    **{
        name: validation.whole(0, MOST_INDEX, f"Give a whole number from 0 to {MOST_INDEX}.")
        for name in DIMENSIONS
    },
    "enabled": validation.flag(),
    "serve": validation.choice("process", "thread", "off"),
    "host": validation.address(
        "Give an address: :: for all interfaces, 0.0.0.0 for those of IPv4, 127.0.0.1 for this machine only."
    ),
    "port": validation.whole(0, 65535, "Give a whole number from 0 to 65535; 0 takes any free port."),
    "directory": validation.path(),
    "web_config": validation.path(),
    "linger_seconds": validation.seconds("Give a finite number of seconds above 0."),
    "retention_seconds": validation.seconds("Give a finite number of seconds above 0."),
    "sd_file": validation.path(),
    "sd_dir": validation.path(),
    "advertise": validation.address("Give the name or address by which Prometheus reaches this host."),
    "gpu": validation.flag(),
    "probes_off": validation.names(PROBES),
    "state_file": validation.path(),
    "count_flops": validation.flag(),
    "model_flops_per_step": validation.seconds("Give a finite number above 0, such as 1.5e12."),
    "peak_flops": validation.seconds("Give FLOPs a second above 0, such as 989e12."),
    "evidence_seconds": validation.seconds("Give a finite number of seconds above 0."),
    "evidence_dir": validation.path(),
    "stacks_signal": validation.choice("SIGUSR1", "SIGUSR2"),
    "user_metrics": validation.flag(),
    "mirror": validation.names(MIRRORS),
}
