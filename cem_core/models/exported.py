"""The graphs of torch.export programs: lists of operations, which are walked."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cem_core.messages import Refused
from cem_core.models.program import Misfit, Walk, Weight


@dataclass(frozen=True)
class Ref:
    """A value made earlier in a graph."""

    name: str


@dataclass(frozen=True)
class Place:
    """The device of the input, whichever the file names."""


@dataclass(frozen=True)
class Node:
    target: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[str, ...]
    one: bool
    """One output, not a tuple of one."""


@dataclass
class Graph:
    """A torch.export program: a list of operations."""

    inputs: Mapping[str, Any]
    """What each input of the graph stands for: a Weight, a constant, or Ref("") for the images."""
    nodes: tuple[Node, ...]
    output: Any

    def __call__(self, walk: Walk) -> Any:
        env: dict[str, Any] = {}
        for name, value in self.inputs.items():
            env[name] = walk.x if isinstance(value, Ref) else self._filled(value, env, walk)
        for node in self.nodes:
            args = [self._filled(arg, env, walk) for arg in node.args]
            kwargs = {key: self._filled(arg, env, walk) for key, arg in node.kwargs.items()}
            made = self._run(node, args, kwargs, walk)
            if node.one:
                env[node.outputs[0]] = made
            else:
                env |= zip(node.outputs, made, strict=False)
        return self._filled(self.output, env, walk)

    def _run(self, node: Node, args: list[Any], kwargs: dict[str, Any], walk: Walk) -> Any:
        if aten := re.fullmatch(r"torch\.ops\.aten\.(\w{1,80})\.(\w{1,40})", node.target):
            if aten[1] == "sym_size":
                return args[0].shape[args[1]] if len(args) > 1 else kwargs["self"].shape[kwargs["dim"]]
            if aten[1] == "sym_numel":
                return (args or [kwargs["self"]])[0].numel()
            return walk.operation(aten[1], args, kwargs, aten[2])
        walk.step()
        if node.target == "_operator.getitem" and isinstance(args[0], (list, tuple)):
            return args[0][args[1]]
        if node.target in _SYMBOLIC:
            values = [*args, *kwargs.values()]
            if any(not isinstance(value, (bool, int, float)) or abs(value) > 2**63 for value in values):
                raise Misfit("a number is missing")
            return _SYMBOLIC[node.target](*values)
        if "set_grad_enabled" in node.target:
            raise Refused("Its program cannot be differentiated: export it again without no_grad in its forward.")
        raise Refused(
            f"Its program uses the operation {node.target[:60]!r}, which is not on the list of those that are known to "
            "be safe: open the state dict instead."
        )

    def _filled(self, value: Any, env: Mapping[str, Any], walk: Walk) -> Any:
        if isinstance(value, Ref):
            return env[value.name]
        if isinstance(value, Weight):
            return walk.tensor(value.name)
        if isinstance(value, Place):
            return walk.x.device
        if isinstance(value, list):
            return [self._filled(item, env, walk) for item in value]
        return value


_SYMBOLIC: Final[Mapping[str, Callable[..., Any]]] = {
    **{
        f"_operator.{name}": getattr(operator, name)
        for name in ("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "eq", "ne", "lt", "le", "gt", "ge")
    },
    "math.ceil": math.ceil,
    "math.floor": math.floor,
    "math.trunc": math.trunc,
    "torch.sym_int": int,
    "torch.sym_float": float,
    "torch.sym_max": max,
    "torch.sym_min": min,
    "torch.sym_not": operator.not_,
}
