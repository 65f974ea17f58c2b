"""Keeping our hooks out of what is made of a watched model: copies, pickles, what TorchScript compiles.

A model's hooks are part of it for pickle and for `copy`, and TorchScript compiles them with it. So pickle is
given the model without ours, by the registry that the standard library has for that; and TorchScript finds
them absent while it looks. Where a class goes its own way, what is left is the standard library's function
that does nothing (`patch.Inert`), and a hook reports for the one model that it was registered on only.
"""

from __future__ import annotations

import copyreg
import sys
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trainbeacon.recorder.core.patch import Ended, observe
from trainbeacon.recorder.hooks.traced import Hook

_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
#: What torch keeps beside a hook, under the same key.
_BESIDE = ("_forward_hooks_always_called", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")

_watched: Counter[type] = Counter()
_before: dict[type, Any] = {}
_changing = threading.RLock()  # a model may be freed, and its hooks with it, at any moment


def keep_out_of_copies(model: Any) -> Callable[[], None]:
    """Leave our hooks out of what is made of `model`, or of others of its class. Returns what ends that."""
    kind = type(model)
    with _changing:
        if not _watched[kind]:
            _before[kind] = copyreg.dispatch_table.get(kind)
            copyreg.pickle(kind, _reduce)
        _watched[kind] += 1
    script = sys.modules.get("torch.jit._recursive")
    stop = observe(script, "get_hook_stubs", _hide) if hasattr(script, "get_hook_stubs") else None

    def remove() -> None:
        if stop is not None:
            stop()
        with _changing:
            _watched[kind] -= 1
            if not _watched[kind]:
                _put_back(kind)

    return remove


def _put_back(kind: type) -> None:
    before = _before.pop(kind)
    if copyreg.dispatch_table.get(kind) is not _reduce:  # somebody else's now
        return
    if before is None:
        del copyreg.dispatch_table[kind]
    else:
        copyreg.dispatch_table[kind] = before


def _reduce(model: Any) -> Any:
    """What a model is for pickle and `copy`: as without us, its hooks less ours."""
    before = _before.get(type(model))
    reduced = model.__reduce_ex__(2) if before is None else before(model)
    if not isinstance(reduced, tuple) or len(reduced) < 3 or not _has_ours(reduced[2]):
        return reduced
    return (*reduced[:2], _without_ours(reduced[2]), *reduced[3:])


def _has_ours(state: Any) -> bool:
    return isinstance(state, dict) and any(_ours(state.get(name)) for name in _HOOKS)


def _ours(hooks: Any) -> list[Any]:
    """The keys of our hooks."""
    return (
        [key for key, hook in hooks.items() if isinstance(hook, Hook)] if isinstance(hooks, Mapping) else []
    )


def _without_ours(state: Mapping[str, Any]) -> dict[str, Any]:
    keys = {key for name in _HOOKS for key in _ours(state.get(name))}
    left = {
        name: OrderedDict((key, value) for key, value in state[name].items() if key not in keys)
        for name in (*_HOOKS, *_BESIDE)
        if name in state
    }
    return {**state, **left}


def _hide(args: Sequence[Any], keywords: Mapping[str, Any]) -> Ended | None:
    """TorchScript looks for the hooks of a module: take ours off until it has looked."""
    module = args[0] if args else keywords.get("nn_module")
    all_hooks = [vars(module)[name] for name in _HOOKS if name in vars(module)]
    hidden = [(hooks, list(hooks.items())) for hooks in all_hooks if _ours(hooks)]
    if not hidden:
        return None
    for hooks, _ in hidden:
        for key in _ours(hooks):
            del hooks[key]

    def put_back(result: Any, error: BaseException | None) -> None:
        for hooks, before in hidden:
            hooks.clear()
            hooks.update(before)

    return put_back
