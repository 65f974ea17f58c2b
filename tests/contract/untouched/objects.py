"""What a script may do with its model, optimizer, scaler and schedule: a list of uses, each with its result.

Every use is tried on objects that are watched and on objects that are not; the results have to be equal.
"""

from __future__ import annotations

import concurrent.futures
import copy
import io
import multiprocessing
import pickle
import re
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize


class Net(nn.Module):
    """A model with tied weights, in training mode, with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.drop = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.drop(torch.relu(self.first(x))))


class OwnState(Net):
    """A model that says itself what is pickled of it, not as a dict."""

    def __getstate__(self) -> Any:
        return [("state", self.__dict__.copy())]

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(dict(state)["state"])


class OwnScaler(torch.amp.GradScaler):
    """A scaler of the script's own."""

    def update(self, new_scale: Any = None) -> None:
        super().update(new_scale)


@dataclass
class Training:
    """What a script trains with."""

    folder: Path
    model: nn.Module = field(default_factory=Net)
    scaler: torch.amp.GradScaler = field(
        default_factory=lambda: torch.amp.GradScaler("cpu", init_scale=1024.0)
    )
    optimizer: Any = None
    schedule: Any = None

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.schedule = torch.optim.lr_scheduler.StepLR(self.optimizer, 1, gamma=0.9)

    def steps(self, number: int = 2, model: Any = None) -> None:
        """Train on."""
        model = model or self.model
        for _ in range(number):
            loss = model(torch.randn(8, 4)).square().mean()
            self.scaler.scale(loss).backward()
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad()
            self.schedule.step()


@dataclass(frozen=True)
class Use:
    """One thing that a script does.

    Attributes:
        do: does it, and gives something that can be compared.
        model: makes the model that it is done with.
        steps: how many steps of the watched optimizer it makes.
    """

    do: Callable[[Training], Any]
    model: Callable[[], nn.Module] = Net
    scaler: Callable[[], torch.amp.GradScaler] = lambda: torch.amp.GradScaler("cpu", init_scale=1024.0)
    steps: int = 0


def outward(thing: Any) -> Any:
    """A comparable view of a model or another object: its attributes, hooks by number, tensors by value."""
    if isinstance(thing, nn.Module):
        hooks = [len(getattr(thing, name)) for name in sorted(vars(thing)) if "hooks" in name]
        weights = [(name, tensor.tolist()) for name, tensor in thing.state_dict().items()]
        return type(thing).__name__, sorted(vars(thing)), hooks, thing.training, weights
    if isinstance(thing, dict):
        return {str(key): outward(value) for key, value in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [outward(each) for each in thing]
    if isinstance(thing, torch.Tensor):
        return thing.tolist()
    if hasattr(thing, "state_dict"):
        return type(thing).__name__, sorted(vars(thing)), outward(thing.state_dict())
    return repr(thing) if callable(thing) else thing


def _saved(thing: Any) -> Any:
    file = io.BytesIO()
    torch.save(thing, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)


def _everything(t: Training) -> dict[str, Any]:
    return {"model": t.model, "optimizer": t.optimizer, "scaler": t.scaler, "schedule": t.schedule}


def _train_copies(t: Training) -> Any:
    """Copies that are trained on their own change nothing of the original, and report nothing."""
    before = outward(_everything(t))
    state = torch.get_rng_state()
    own = Training(t.folder, copy.deepcopy(t.model), copy.deepcopy(t.scaler))
    own.steps(3)
    shallow = copy.copy(t.model)
    shallow(torch.ones(1, 4)).sum().backward()
    t.optimizer.zero_grad()
    torch.set_rng_state(state)
    return before == outward(_everything(t)), outward(own.model), own.scaler.state_dict()


def _averaged(t: Training) -> Any:
    average = torch.optim.swa_utils.AveragedModel(t.model)
    for _ in range(2):
        average(torch.ones(1, 4))
        average.update_parameters(t.model)
    return outward(average.module)


def _in_process(method: str) -> Callable[[Training], Any]:
    def do(t: Training) -> Any:
        context = multiprocessing.get_context(method)
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
            saved = pool.submit(torch.save, t.model.state_dict(), t.folder / "elsewhere.pt")
            given_back = pool.submit(_echo, t.model, t.optimizer, t.scaler).result(120)
            saved.result(120)
            return [outward(each) for each in (*given_back, torch.load(t.folder / "elsewhere.pt"))]

    return do


def _echo(*things: Any) -> Any:
    """In another process: use the model there, and give everything back."""
    torch.manual_seed(1)
    things[0](torch.ones(1, 4)).sum().backward()
    return things


def _forked(t: Training) -> Any:
    """A child that is forked trains a copy of its own."""
    context = multiprocessing.get_context("fork")
    process = context.Process(target=t.steps)
    process.start()
    process.join(60)
    return process.exitcode


def _by_value(t: Training) -> Any:
    """Sent class and all, as joblib sends what a script defines, to where there is no TrainBeacon."""
    import cloudpickle

    here = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(here)
    sent = cloudpickle.dumps((t.model, t.scaler))
    cloudpickle.unregister_pickle_by_value(here)
    program = (
        "import pickle, sys, torch; sys.modules['trainbeacon'] = None; "
        "model, scaler = pickle.load(sys.stdin.buffer); scaler.scale(torch.ones(1)); scaler.update(2.0); "
        "print(model.eval()(torch.ones(1, 4)).tolist(), len(model._forward_hooks), scaler.get_scale())"
    )
    return subprocess.run([sys.executable, "-c", program], input=sent, capture_output=True, check=True).stdout


def _packaged(t: Training) -> Any:
    file = io.BytesIO()
    with torch.package.PackageExporter(file) as exporter:
        exporter.extern(["torch.**", "tests.**", "numpy.**"])
        exporter.save_pickle("model", "model.pkl", t.model)
    file.seek(0)
    return outward(torch.package.PackageImporter(file).load_pickle("model", "model.pkl"))


def _exported(t: Training, *, strict: bool) -> Any:
    program = torch.export.export(t.model, (torch.ones(2, 4),), strict=strict)
    return str(program.graph)


def _compiled(t: Training) -> Any:
    compiled = torch.compile(t.model, fullgraph=True, backend="eager")
    state = torch.get_rng_state()
    t.model.eval()
    result = outward(compiled(torch.ones(2, 4)))
    t.model.train()
    torch.set_rng_state(state)
    return result


def _scripted_backward(t: Training) -> Any:
    @torch.jit.script
    def step(x: torch.Tensor) -> torch.Tensor:
        y = (x * x).sum()
        torch.autograd.backward([y])
        return y

    x = torch.ones(2, requires_grad=True)
    step(x)
    return x.grad.tolist()


def _parametrized(t: Training) -> Any:
    class Twice(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return 2 * weight

    parametrize.register_parametrization(t.model, "gain", Twice()) if hasattr(t.model, "gain") else None
    parametrize.register_parametrization(t.model.second, "bias", Twice())
    result = outward(copy.deepcopy(t.model))
    parametrize.remove_parametrizations(t.model.second, "bias")
    return result


def _own_hooks(t: Training) -> Any:
    """The script's own hooks, before and after ours, come and go as it says."""
    seen: list[str] = []
    handles = [
        t.model.register_forward_hook(lambda *_: seen.append("after")),
        t.model.register_forward_pre_hook(lambda *_: seen.append("before"), prepend=True),
        t.optimizer.register_step_post_hook(lambda *_: seen.append("stepped")),
    ]
    t.steps(1)
    for handle in handles:
        handle.remove()
    t.steps(1)
    return seen


def _told_apart(t: Training) -> Any:
    from torch.nn.utils import clip_grad

    functions = (
        torch.save,
        torch.autograd.backward,
        clip_grad.clip_grad_norm_,
        clip_grad._clip_grads_with_norm_,
        torch.amp.GradScaler.update,
    )
    texts = [(f.__module__, f.__qualname__, f.__doc__, pickle.dumps(f)) for f in functions]
    return texts, [repr(each) for each in (t.model, t.optimizer)]


def _freed(t: Training) -> Any:
    """Models of which the script lets go are freed, each fold's before the next."""
    model = weakref.ref(t.model)
    t.optimizer.zero_grad()
    t.model = Net()
    t.optimizer = torch.optim.SGD(t.model.parameters(), lr=0.1)
    t.schedule = torch.optim.lr_scheduler.StepLR(t.optimizer, 1)
    return model() is None


USES: dict[str, Use] = {
    "pickle": Use(lambda t: outward(pickle.loads(pickle.dumps(_everything(t))))),
    "what a pickle names": Use(lambda t: [b"trainbeacon" in p or b"nullcontext" in p for p in _pickles(t)]),
    "pickle, every protocol": Use(
        lambda t: [
            outward(pickle.loads(pickle.dumps(t.model, p))) for p in range(pickle.HIGHEST_PROTOCOL + 1)
        ]
    ),
    "pickle in Python": Use(lambda t: outward(_by_python(t.model))),
    "pickle, own state": Use(lambda t: len(pickle.dumps(t.model)) > 0, model=OwnState),
    "torch.save": Use(lambda t: outward(_saved(_everything(t)))),
    "torch.save, own state": Use(lambda t: _saved(t.model)(torch.ones(1, 4)).shape, model=OwnState),
    "torch.package": Use(_packaged),
    "deepcopy": Use(lambda t: outward(copy.deepcopy(_everything(t)))),
    "copy": Use(lambda t: [outward(copy.copy(each)) for each in (t.model, t.scaler)]),
    "copies are trained": Use(_train_copies),
    "average of weights": Use(_averaged),
    "cloudpickle": Use(_by_value, scaler=lambda: OwnScaler("cpu", init_scale=1024.0)),
    "state_dict": Use(lambda t: outward({name: each.state_dict() for name, each in _everything(t).items()})),
    "load_state_dict": Use(lambda t: t.model.load_state_dict(t.model.state_dict())),
    "attributes": Use(lambda t: [sorted(vars(each)) for each in (t.model, t.optimizer, t.scaler)]),
    "names of functions": Use(_told_apart),
    "spawn": Use(_in_process("spawn")),
    "forkserver": Use(_in_process("forkserver")),
    "fork": Use(_in_process("fork")),
    "train in a forked child": Use(_forked),
    "torch.jit.script": Use(lambda t: _graph(torch.jit.script(t.model))),
    "torch.jit.script, as a part": Use(lambda t: _graph(torch.jit.script(nn.Sequential(t.model)))),
    "torch.jit.trace": Use(lambda t: _graph(torch.jit.trace(t.model.eval(), torch.ones(1, 4)))),
    "TorchScript calls backward": Use(_scripted_backward),
    "torch.export": Use(lambda t: _exported(t, strict=False)),
    "torch.export, strict": Use(lambda t: _exported(t, strict=True)),
    "torch.fx": Use(lambda t: str(torch.fx.symbolic_trace(t.model).graph)),
    "torch.compile": Use(_compiled),
    "functional_call": Use(
        lambda t: (
            torch.func.functional_call(t.model.eval(), dict(t.model.named_parameters()), torch.ones(1, 4))
            .detach()
            .tolist()
        )
    ),
    "to, half, apply": Use(
        lambda t: t.model.double().float().to("cpu").apply(lambda module: None) is t.model
    ),
    "share_memory": Use(lambda t: t.model.share_memory() is t.model),
    "parametrize": Use(_parametrized),
    "DataParallel": Use(lambda t: t.steps(2, nn.DataParallel(t.model)), steps=2),
    "as a part of another": Use(lambda t: t.steps(2, nn.Sequential(t.model)), steps=2),
    "hooks of the script": Use(_own_hooks, steps=2),
    "freed": Use(_freed),
}


def _by_python(thing: Any) -> Any:
    file = io.BytesIO()
    pickle._Pickler(file).dump(thing)
    return pickle._Unpickler(io.BytesIO(file.getvalue())).load()


def _pickles(t: Training) -> list[bytes]:
    return [pickle.dumps(each) for each in (*_everything(t).values(), torch.save, torch.autograd.backward)]


def _graph(module: Any) -> str:
    """The graph without the numbers that TorchScript gives to each compilation."""
    return re.sub(r"___torch_mangle_\d+\.", "", str(module.graph))
