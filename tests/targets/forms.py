"""In what short form each make target, script and quoted command line is run.

What has no entry here fails a test. `Elsewhere` is for what can only run in another place; it says why, and
what is tested of it instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Run:
    """A command of the shell, run at the root of a copy of this checkout.

    Attributes:
        command: for bash. `{python}`, `{port}`, `{scratch}` (an empty folder) are filled in, here and below;
            for quoted commands also `{boxes}`, `{exporter}` and `{targets}` of a rank that makes no steps.
        until: the command runs until its output has this (a regular expression), and is then ended by Ctrl-C;
            without it the command ends by itself.
        meanwhile: another command that must succeed before the Ctrl-C.
        files: what must lie there before, by path.
        writes: a file that must be there afterwards.
        needs: programs that this machine may lack.
    """

    command: str
    until: str = ""
    meanwhile: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    writes: str = ""
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Elsewhere:
    """Not run here, for this reason."""

    reason: str


@dataclass(frozen=True)
class Target:
    """Covered by the make target of this name."""

    name: str


Form = Run | Elsewhere | Target

#: A quick test, for the targets that run tests.
_ONE_TEST = "-q -p no:cacheprovider --basetemp={scratch}/tests tests/unit/tools/test_helm.py"
#: Outcomes of a campaign that was played, in the form of its log: the campaign goes on where it stopped.
_PLAYED = """
import json
from pathlib import Path
outcomes = json.loads(Path("benchmarks/results/campaign.json").read_text())["outcomes"]
Path("campaign.jsonl").write_text("".join(json.dumps(one) + "\\n" for one in outcomes))
"""

MAKE: dict[str, Form] = {
    "help": Run("make help"),
    "demo": Run(
        'make demo ARGS="--ranks 2 --minutes 0.02 --port {port}"', needs=("prometheus", "alertmanager")
    ),
    "test": Run(f'make test JOBS=0 ARGS="{_ONE_TEST}"'),
    # Its tests take minutes, and CI runs the target itself.
    "versions": Run('make versions JOBS=0 ARGS="--collect-only -q"'),
    "soak": Run(f'make soak JOBS=0 RUNS=1 LOAD=1 ARGS="{_ONE_TEST}"'),
    "lint": Run("make lint ARGS=tools/helm.py"),
    "format": Run("make format"),
    "generate": Run("make generate"),
    "dashboards": Run("make dashboards"),
    "robustness": Run("make robustness ARGS=\"--short 'hostile texts'\""),
    "campaign": Run(
        "{python} played.py && make campaign"
        ' ARGS="--kinds nan_loss=1 --minutes 0" HISTORY="--fleets 1 --runs 2 --hours 0.05"',
        files={"played.py": _PLAYED},
        needs=("prometheus", "alertmanager"),
    ),
    "bench": Run("make bench ARGS=--smoke"),
    "scale": Run(
        'make scale ARGS="--ranks 16 --interval 1 --minutes 0.05"',
        writes="benchmarks/results/scale-16-1s-*.json",
        needs=("prometheus",),
    ),
    "mutants": Run('make mutants ARGS="--sample 12"', needs=("prometheus", "promtool")),
    "tools": Run("make tools"),
    "helm": Run("make helm"),
    # The incidents take minutes and need root.
    # They are built and run by the target itself, which takes minutes and needs root and Debian's podman.
    "images": Run('CI= make images ARGS="--collect-only -q"'),
    "cluster": Run("make cluster ARGS=--list"),
    # The jobs are played by the target itself, which takes minutes and needs root and Debian's slurm-wlm.
    "slurm": Run('CI= make slurm ARGS="--collect-only -q"'),
}

_HISTORY = "trainbeacon simulate --history 0.2h --blocks {scratch}/data"

#: What can be started in benchmarks/, examples/ and tools/.
SCRIPTS: dict[str, Form] = {
    "benchmarks/__main__.py": Target("bench"),
    "benchmarks/recording.py": Target("bench"),
    "benchmarks/peer_worker.py": Target("bench"),
    "benchmarks/interference_worker.py": Target("bench"),
    "benchmarks/scale.py": Target("scale"),
    "benchmarks/efficiency.py": Run(
        "{python} -m benchmarks.efficiency --days 1 --times 1", needs=("prometheus", "promtool")
    ),
    "benchmarks/rule_costs.py": Run(
        _HISTORY + " && {python} -m benchmarks.rule_costs {scratch}/data --once",
        needs=("prometheus", "promtool"),
    ),
    "benchmarks/before_after.py": Run("{python} -m benchmarks.before_after --before . --rounds 1 --blocks 2"),
    "benchmarks/step_worker.py": Run("{python} benchmarks/step_worker.py 2"),
    "benchmarks/top_refresh.py": Run(
        "{python} -m benchmarks.top_refresh --ranks 8 --nodes 2 --refreshes 2 --interval 0.5"
    ),
    "benchmarks/under_attack.py": Run("{python} -m benchmarks.under_attack --scrapes 2", needs=("openssl",)),
    # Served is the last one only: an exporter outlives its run for a minute.
    "examples/ddp.py": Run(
        "export TRAINBEACON_SERVE=off;"
        " torchrun --master-port {port} --nproc-per-node 2 examples/ddp.py --steps 5"
        " && torchrun --master-port {port} --nproc-per-node 2 examples/ddp.py --steps 5 --shard"
    ),
    "examples/deepspeed_zero.py": Run(
        "TRAINBEACON_SERVE=off PYTHONWARNINGS=default torchrun --master-port {port} --nproc-per-node 2"
        " examples/deepspeed_zero.py --steps 4 --stage 0"
    ),
    "examples/keras_mlp.py": Run("TRAINBEACON_SERVE=off {python} examples/keras_mlp.py --epochs 1"),
    "examples/lightning_convnet.py": Run(
        "TRAINBEACON_SERVE=off {python} -W ignore examples/lightning_convnet.py --epochs 1"
    ),
    "examples/torch_loop.py": Run(
        # An exporter of a script before it would serve the ranks of a folder that they share.
        "export TRAINBEACON_DIRECTORY={scratch}/boxes && mkdir -m 700 {scratch}/boxes"
        " && {python} examples/torch_loop.py",
        until="epoch 0: validation loss",
        meanwhile="curl --fail --silent --retry 60 --retry-delay 1 --retry-connrefused"
        " 127.0.0.1:{port}/metrics",
        writes="torch-loop.pt",
        needs=("curl",),
    ),
    "examples/transformers_gpt.py": Run(
        "TRAINBEACON_SERVE=off {python} -W ignore examples/transformers_gpt.py --steps 4"
    ),
    "tools/environment.py": Elsewhere(
        "it fetches 200 MB; a fresh clone does so in .ci/run. Its way to a command in a ready environment is"
        " run by test_environment_that_is_ready"
    ),
    "tools/generate.py": Target("generate"),
    "tools/helm.py": Target("helm"),
    "tools/load.py": Target("soak"),
    "tools/mutants/__main__.py": Target("mutants"),
    "tools/stack.py": Target("tools"),
}

_CLUSTER = Elsewhere("needs a Kubernetes cluster; what it acts on is rendered and judged in tests/chart")
_DOCKER = Elsewhere(
    "needs a container daemon; images are run by make images, compose is judged in tests/chart"
)
_NOTIFY = {
    "{scratch}/notify.yaml": "receivers: {ml-oncall: {urls_file: {scratch}/urls}}",
    "{scratch}/urls": "json://127.0.0.1:{port}/\n",
    "{scratch}/receiver.py": """
from http.server import BaseHTTPRequestHandler, HTTPServer
class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        self.send_response(200)
        self.end_headers()
server = HTTPServer(("127.0.0.1", {port}), Receiver)
server.timeout = 60
server.handle_request()
""",
}

_SCRIPT = """
import torch
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(3):
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
"""

#: Command lines quoted on pages. The first pattern that matches the whole line says how it is run; a text is
#: the template of a `Run`.
QUOTED: tuple[tuple[str, str | Form], ...] = (
    # Names of commands, mentioned without the rest of their line.
    (r"trainbeacon \w+", r"\g<0> --help"),
    (r"promtool (tsdb create-blocks-from \w+|check rules)", Run(r"\g<0> --help", needs=("promtool",))),
    (r"python -[mI]|helm (test|template)|srun -.*", Elsewhere("a program's name")),
    (r"kubectl (logs|describe pod|get events)", Elsewhere("a program's name")),
    # Ours.
    (r"make (\w+).*", Target(r"\1")),
    (r"trainbeacon simulate --list", r"\g<0>"),
    (r"trainbeacon simulate --history 24h --blocks data (.*)", Run(_HISTORY + r" \1", needs=("promtool",))),
    (r"trainbeacon simulate (.*)", r"cd {scratch} && trainbeacon simulate \1 --duration 1"),
    (
        r"trainbeacon agent --directory \w+",
        Run("trainbeacon agent --directory {scratch}/boxes --port {port} --host 127.0.0.1", until="serving"),
    ),
    (
        r"trainbeacon agent --web-config web.yml",
        Run(
            "cd {scratch} && exec trainbeacon agent --web-config web.yml --directory {scratch}/boxes"
            " --port {port} --host 127.0.0.1",
            until="serving",
            files={"{scratch}/web.yml": "basic_auth_users: {}\n"},
        ),
    ),
    (
        r"trainbeacon up (--notify .*|--open)",
        Elsewhere("starts servers for the user of the machine: tests/e2e/test_up.py"),
    ),
    (r"python train.py", Elsewhere("whatever the reader trains")),
    (r"trainbeacon bundle DIR", Run("trainbeacon bundle {scratch}/bundle", writes="{scratch}/bundle/*")),
    (
        r"trainbeacon bundle DIR (--runbook-url \S+)",
        Run(r"trainbeacon bundle {scratch}/bundle \1", writes="{scratch}/bundle/prometheus/rules/*/*"),
    ),
    (r"trainbeacon runbook ALERT(.*)", r"trainbeacon runbook TrainingStalled\1"),
    (r"trainbeacon runbook .*", r"\g<0>"),
    (r"trainbeacon catalogue --json", r"\g<0>"),
    (
        r"trainbeacon run train\.py.*",
        Run("trainbeacon run {scratch}/train.py", files={"{scratch}/train.py": _SCRIPT}),
    ),
    (
        r"trainbeacon run -m package\.train",
        Run("cd {scratch} && trainbeacon run -m train", files={"{scratch}/train.py": _SCRIPT}),
    ),
    (
        r"(trainbeacon run torchrun) (--nproc-per-node 2) train\.py",
        Run(r"\1 --master-port {port} \2 {scratch}/train.py", files={"{scratch}/train.py": _SCRIPT}),
    ),
    (
        r"(torchrun) (--nproc-per-node 2 -m trainbeacon run) train\.py",
        Run(r"\1 --master-port {port} \2 {scratch}/train.py", files={"{scratch}/train.py": _SCRIPT}),
    ),
    (
        r"trainbeacon replay runs (?:--blocks .*|> .*)",
        Elsewhere("real event files into a real Prometheus: tests/integrations/test_replay.py"),
    ),
    (
        r"promtool tsdb create-blocks-from openmetrics runs\.om .*",
        Elsewhere("tests/integrations/test_replay.py"),
    ),
    (r"trainbeacon install-autostart", r"\g<0> --directory {scratch}"),
    (r"TRAINBEACON=1 python train\.py", Elsewhere("tests/integrations: it needs the hook installed")),
    (r"trainbeacon runbook ALERT", "trainbeacon runbook TrainingStalled"),
    (r"(python|python3|torchrun) (.* )?train\.py.*", Elsewhere("the reader's own script")),
    (
        r"trainbeacon doctor prometheus\.yml .*",
        "trainbeacon doctor prometheus/prometheus.yml alertmanager/alertmanager.yml"
        " deploy/k8s/chart/values.yaml",
    ),
    (r"trainbeacon doctor --.*", Elsewhere("asks the Prometheus of a cluster: tests/doctor")),
    (r"trainbeacon report my-run.*", Elsewhere("needs runs that are over: tests/report")),
    (r"trainbeacon thresholds .*", Elsewhere("needs a run that is over: tests/report")),
    (r"trainbeacon profile .*", Elsewhere("needs a run at work: tests/profiling")),
    (r"trainbeacon top node1:9797 node2:9797", "trainbeacon top {exporter} --once"),
    (r"trainbeacon top /shared/targets", "trainbeacon top {targets} --once"),
    (r"trainbeacon top /dev/shm/trainbeacon-1000", "trainbeacon top {boxes} --once"),
    (r"trainbeacon top --once", r"\g<0> {boxes}"),
    (r"trainbeacon top .*--prometheus .*", Elsewhere("asks the Prometheus of a cluster: tests/unit/cli")),
    (r"trainbeacon stacks( --ask)? --rank \w+", r"trainbeacon stacks\1 --rank 0"),
    (r"trainbeacon stacks --run RUN(?: --rank RANK)?", "trainbeacon stacks --rank 0"),
    (
        r"trainbeacon notify --config notify.yaml",
        Run(
            "exec trainbeacon notify --config {scratch}/notify.yaml --port {port}",
            until="listening",
            files=_NOTIFY,
        ),
    ),
    (
        r"trainbeacon notify --config notify.yaml --check",
        Run("trainbeacon notify --config {scratch}/notify.yaml --check", files=_NOTIFY),
    ),
    (
        r"trainbeacon notify --config notify.yaml --test (?:ml-oncall|RECEIVER)",
        Run(
            "{python} {scratch}/receiver.py & sleep 1;"
            " trainbeacon notify --config {scratch}/notify.yaml --test ml-oncall",
            files=_NOTIFY,
        ),
    ),
    (r"python -m tests\.(campaign|campaign\.history)", Target("campaign")),
    (r"python -m tests\.campaign\.trace(\.synthetic)? .*", r"python -m tests.campaign.trace\1 --help"),
    (r"python -m benchmarks\.scale", Target("scale")),
    (r"python -m benchmarks\.under_attack", Elsewhere("a script: see SCRIPTS")),
    (r"python -m benchmarks\.efficiency", Elsewhere("a script: see SCRIPTS")),
    # Campaigns over real jobs of minutes and hours: their options are read; tests/diagnosis plays some jobs.
    (r"(python -m tests\.diagnosis\.\w+ .*)--count \d+(.*)", r"\1--count 0\2"),
    (r"python -m tests\.diagnosis\.resume", r"\g<0> --runs 0"),
    (r"python -m tests\.diagnosis\.nonfinite", r"\g<0> --help"),
    (r"python -m tests\.diagnosis\.failures", r"\g<0> 0"),
    (
        r"python -m tests\.chart\.remote_write /path/to/victoria-metrics",
        "python -m tests.chart.remote_write --help",
    ),
    (r"pytest -m gpu tests/gpu", r"\g<0> --collect-only -q -p no:cacheprovider"),
    # Others' programs.
    (r"curl 127\.0\.0\.1:9797/metrics", Elsewhere("asked of examples/torch_loop.py: see SCRIPTS")),
    (r"curl -s http://127\.0\.0\.1:9797/healthz", Elsewhere("for an exporter that is blind: tests/contract")),
    (r"curl -s http://127\.0\.0\.1:9090/.*", Elsewhere("an address of Prometheus' own")),
    (r"amtool --alertmanager\.url=\S+ .*", Run(r"\g<0> --help", needs=("amtool",))),
    (r"python -c \"import bcrypt.*", r"echo secret | \g<0>"),
    (
        r"promtool check web-config web.yml",
        Run(
            "promtool check web-config {scratch}/web.yml",
            files={"{scratch}/web.yml": "basic_auth_users: {}\n"},
            needs=("promtool",),
        ),
    ),
    (
        r"prometheus --config\.file=prometheus\.yml --storage\.tsdb\.path=data",
        Run(
            "exec prometheus --config.file=prometheus/prometheus.yml --storage.tsdb.path={scratch}/data"
            " --web.listen-address=127.0.0.1:{port}",
            until="Server is ready",
            needs=("prometheus",),
        ),
    ),
    (
        r"amtool (check-config alertmanager\.yml|config routes test --config\.file=alertmanager\.yml .*)",
        Run(r"cd alertmanager && \g<0>", needs=("amtool",)),
    ),
    (
        r"pip install 'trainbeacon\[(\w+)\]'",
        Elsewhere("needs a package index; that the extra exists is tested"),
    ),
    (r"install -d -m (\d+) -g training .*", r"install -d -m \1 {scratch}/training"),
    (r"install -d -m 1777 /shared(.*)", r"install -d -m 1777 {scratch}\1"),
    (r"helm install trainbeacon (.*)", Run(r"helm template trainbeacon \1", needs=("helm",))),
    (
        r"helm upgrade trainbeacon (.*) --reuse-values (.*)",
        Run(r"helm template trainbeacon \1 \2", needs=("helm",)),
    ),
    (
        r"helm template x deploy/k8s/chart -f values\.yaml .*",
        Run(r"\g<0>", files={"values.yaml": "{}\n"}, needs=("helm",)),
    ),
    (r"helm install kps .*|helm upgrade dcgm-exporter .*", Elsewhere("installs another project's chart")),
    (r"helm test .*|kubectl .*", _CLUSTER),
    (r"docker .*", _DOCKER),
    (r"sbatch .*", Elsewhere("needs Slurm; the script is run with stand-ins in tests/chart/test_slurm.py")),
)
