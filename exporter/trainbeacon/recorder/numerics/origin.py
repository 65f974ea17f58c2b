"""Where in a model a NaN or infinity arose, found in what is there anyway when it shows in the loss.

Between the forward and the backward pass autograd keeps the activations that it will need. They are
read as they lie, so that no hook of checkpointing or offloading runs and nothing is computed again, and
followed from the first one that is not finite back to the layer that made it. CPU tensors only: to read one
on a device would wait for the device, which nothing here does. `probes_off=["gradients"]` leaves it out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from trainbeacon.recorder.numerics.layers import Layer
from trainbeacon.recorder.numerics.shards import local

#: How long one search may take; it is made once in an episode of bad numbers.
MOST_SECONDS = 1.0
#: Operations of a graph that are looked at.
MOST_NODES = 50_000
#: An operation's input, by the name under which autograd keeps it. `mat2` is the last.
_POSITIONS = {
    "self": 0, "input": 0, "query": 0, "other": 1, "key": 1, "mat1": 1, "batch1": 1,
    "value": 2, "batch2": 2, "mat2": -1, "target": 1,
}  # fmt: skip
_SAVED = "_raw_saved_"
_RESULTS = ("result", "result0", "result1", "result2", "output", "out")
#: Operations through which a weight reaches the one that uses it.
_VIEWS = frozenset(
    f"{name}Backward0" for name in ("T", "Transpose", "View", "Permute", "ToCopy", "Alias", "UnsafeView")
)

Value = tuple[Any, int]  # an output of an operation: the operation and its number


def bad_layers(layers: Sequence[Layer], *, gradients: bool, deadline: float) -> list[str]:
    """Layers whose weights, or their gradients, are not all finite, as far as this rank holds them."""
    found = []
    for layer in layers:
        if time.monotonic() > deadline:
            break
        tensors = [parameter.grad if gradients else parameter for parameter in layer.parameters]
        if any(not is_finite(local(tensor)) for tensor in tensors if tensor is not None):
            found.append(layer.name)
    return found


def is_finite(tensor: Any) -> bool:
    """Whether all numbers of a CPU tensor are finite; True of what cannot be read here."""
    import torch

    with torch.no_grad():
        if tensor.device.type != "cpu" or not (tensor.is_floating_point() or tensor.is_complex()):
            return True
        if tensor.is_sparse:
            tensor = tensor._values()
        # A sum is the cheapest pass; one that overflows says nothing yet.
        return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


class Search:
    """One search through the graph behind a loss.

    Args:
        names: the layer of each parameter, by the parameter's id.
        deadline: monotonic time at which it gives up.
    """

    def __init__(self, names: Mapping[int, str], deadline: float) -> None:
        self._names = names
        self._deadline = deadline
        self._finite: set[tuple[int, int]] = set()

    def origin(self, loss: Any) -> tuple[str, str] | None:
        """Layer and kind (input or activation) of the first non-finite number before the loss.

        The layer is a range (`a..b`) where nothing readable lies in between, and the one that met it
        first where the batch itself is to blame. None if all that can be read is finite.
        """
        if loss.grad_fn is None:
            return None
        for node in sorted(_nodes(loss.grad_fn), key=lambda node: node._sequence_nr()):
            if time.monotonic() > self._deadline:
                return None
            for name, tensor in _kept(node):
                made, number = _input(node, name)
                if not is_finite(tensor):
                    return self._blame(node, name, made)
                if made is not None:
                    self._finite.add((id(made), number))
        return None

    def _blame(self, node: Any, name: str, made: Any) -> tuple[str, str]:
        """Where a bad tensor comes from that an operation keeps under a name."""
        if name == "target":
            return "", "input"
        if made is not None:
            return self._made_by(made)
        if name in _RESULTS or _inputs(node):  # its own work, or a constant that it met
            return self._made_by(node)
        return next(iter(self._layers(node)), ""), "input"

    def _made_by(self, last: Any) -> tuple[str, str]:
        """The layers that may have made a value: back from it to layers whose own input was finite."""
        found: list[tuple[int, str]] = []
        open_nodes, seen = [last], set()
        while open_nodes:
            node = open_nodes.pop()
            if node in seen:
                continue
            seen.add(node)
            layers = list(self._layers(node))
            found += [(node._sequence_nr(), layer) for layer in layers]
            if layers and self._knows_inputs(node):
                continue
            open_nodes += [made for made, number in _inputs(node) if (id(made), number) not in self._finite]
        found = found or self._nearest(last)
        names = list(dict.fromkeys(layer for _, layer in sorted(found)))
        return names[0] if len(names) == 1 else "..".join([*names[:1], *names[-1:]]), "activation"

    def _nearest(self, node: Any) -> list[tuple[int, str]]:
        """The last layer before an operation whose inputs were all finite."""
        before = [(each._sequence_nr(), each) for each in _nodes(node) if each is not node]
        for number, each in sorted(before, key=lambda pair: pair[0], reverse=True):
            for layer in self._layers(each):
                return [(number, layer)]
        return []

    def _knows_inputs(self, node: Any) -> bool:
        return all((id(made), number) in self._finite for made, number in _inputs(node))

    def _layers(self, node: Any) -> Iterator[str]:
        """The layers whose weights an operation uses."""
        for used, _ in node.next_functions:
            while used is not None and used.name() in _VIEWS and len(used.next_functions) == 1:
                used = used.next_functions[0][0]
            name = self._names.get(id(getattr(used, "variable", None)))
            if name is not None:
                yield name


def _nodes(root: Any) -> Iterator[Any]:
    """The operations behind a result, without the leaves."""
    seen, open_nodes = {root}, [root]
    while open_nodes and len(seen) < MOST_NODES:
        node = open_nodes.pop()
        if hasattr(node, "variable"):
            continue
        yield node
        for made, _ in node.next_functions:
            if made is not None and made not in seen:
                seen.add(made)
                open_nodes.append(made)


def _inputs(node: Any) -> list[Value]:
    """The activations that an operation took; weights and constants are not."""
    found = []
    for made, number in node.next_functions:
        weight = made
        while weight is not None and weight.name() in _VIEWS and len(weight.next_functions) == 1:
            weight = weight.next_functions[0][0]
        if made is not None and not hasattr(weight, "variable"):
            found.append((made, number))
    return found


def _input(node: Any, name: str) -> Value:
    """What made the input that is kept under a name: nothing, if it is a constant or a result."""
    functions: Sequence[Value] = node.next_functions
    position = _POSITIONS.get(name)
    if position is None or not -len(functions) <= position < len(functions):
        return None, 0
    return functions[position]


def _kept(node: Any) -> Iterator[tuple[str, Any]]:
    """The tensors that autograd keeps for an operation, by name: inputs first, then results."""
    for name in _names_kept(node.__class__):
        tensor = _readable(getattr(node, _SAVED + name))
        if tensor is not None:
            yield name, tensor


@cache
def _names_kept(operation: Any) -> list[str]:
    names = [each.removeprefix(_SAVED) for each in dir(operation) if each.startswith(_SAVED)]
    known = [name for name in names if name in _POSITIONS or name in _RESULTS]
    return sorted(known, key=lambda name: name in _RESULTS)


def _readable(saved: Any) -> Any:
    """The tensor as it was saved; None if a hook packed it away or its memory was given back."""
    import torch

    data = getattr(saved, "data", None)
    if not isinstance(data, torch.Tensor):
        return None
    tensor = local(data)
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.layout != torch.strided:
        return None
    needed = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    held = tensor.untyped_storage().nbytes() // tensor.element_size() - tensor.storage_offset()
    return tensor if tensor.numel() and needed <= held else None


def parameter_names(model: Any, layers: Sequence[Layer]) -> dict[int, str]:
    """The layer of each parameter by id, and of the whole parameters that FSDP2 puts in their place."""
    names = {id(parameter): layer.name for layer in layers for parameter in layer.parameters}
    for parameter, whole in gathered(model):
        name = names.get(id(parameter))
        if name is not None:
            names[id(whole)] = name
    return names


def gathered(model: Any) -> Iterator[tuple[Any, Any]]:
    """Each sharded parameter of FSDP2 with the whole one that the forward pass uses, once there is one.

    PyTorch has no public name for it; where it has another name there is no origin.
    """
    for module in model.modules():
        state: Callable[[], Any] | None = getattr(module, "_get_fsdp_state", None)
        if state is None:
            continue
        one = (
            getattr(state(), "_fsdp_param_group", None)
            if not hasattr(state(), "_fsdp_param_groups")
            else None
        )
        groups = [one] if one is not None else getattr(state(), "_fsdp_param_groups", ())
        for parameter in (each for group in groups for each in getattr(group, "fsdp_params", ())):
            whole = getattr(parameter, "_unsharded_param", None)
            if whole is not None:
                yield parameter.sharded_param, whole
