"""The code of TorchScript files, walked as a syntax tree: never compiled, never run by Python."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import torch
from torch import Tensor

from cem_core.messages import Refused
from cem_core.models.program import Misfit, Walk, Weight

_CODES: Final = {
    torch.uint8: 0, torch.int8: 1, torch.int16: 2, torch.int32: 3, torch.int64: 4, torch.float16: 5,
    torch.float32: 6, torch.float64: 7, torch.bool: 11, torch.bfloat16: 15,
}  # fmt: skip
_LONGEST_LIST: Final = 10_000
_DEEPEST: Final = 60


@dataclass(eq=False, repr=False)
class Instance:
    """An object of the file: a module, mostly."""

    kind: str
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Name:
    """`torch.relu` and the like, not yet called."""

    dotted: str


@dataclass
class Script:
    """A TorchScript program: walks the syntax tree of its code."""

    root: Instance
    classes: Mapping[str, ast.ClassDef]
    functions: Mapping[str, ast.FunctionDef]
    constants: tuple[Any, ...]

    def __call__(self, walk: Walk) -> Any:
        return _Pass(self, walk).method(self.root, "forward", [walk.x], {})


class _Pass:
    def __init__(self, script: Script, walk: Walk) -> None:
        self.script = script
        self.walk = walk
        self.depth = 0

    def method(self, owner: Instance, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        for part in self._class(owner).body:
            if isinstance(part, ast.FunctionDef) and part.name == name:
                return self.function(part, [owner, *args], kwargs)
        raise Refused(f"Its program is incomplete: {name[:60]!r} is missing.")

    def function(self, definition: ast.FunctionDef, args: list[Any], kwargs: dict[str, Any]) -> Any:
        self.walk.step()
        names = [arg.arg for arg in definition.args.args]
        defaults = definition.args.defaults
        env = {name: self.value(node, {}) for name, node in zip(names[::-1], defaults[::-1], strict=False)}
        env |= dict(zip(names, args, strict=False)) | kwargs
        if len(args) > len(names) or env.keys() != set(names):
            raise Refused(f"Its program calls {definition.name[:60]!r} with other arguments than that takes.")
        self.depth += 1
        if self.depth > _DEEPEST:
            raise Refused("Its program calls itself again and again.")
        done = self.block(definition.body, env)
        self.depth -= 1
        return done[0] if done else None

    def block(self, statements: list[ast.stmt], env: dict[str, Any]) -> tuple[Any] | None:
        """Run; what is returned, if anything is."""
        for statement in statements:
            match statement:
                case ast.Assign(targets=[target], value=value):
                    self.assign(target, self.value(value, env), env)
                case ast.AnnAssign(target=target, value=value):
                    self.assign(target, None if value is None else self.value(value, env), env)
                case ast.Expr(value=value):
                    self.value(value, env)
                case ast.Return(value=value):
                    return (None if value is None else self.value(value, env),)
                case ast.If(test=test, body=body, orelse=orelse):
                    if done := self.block(body if self.truth(self.value(test, env)) else orelse, env):
                        return done
                case ast.For(
                    target=target, iter=ast.Call(func=ast.Name(id="range"), args=[times]), body=body, orelse=[]
                ):
                    for turn in range(self.integer(self.value(times, env))):
                        self.walk.step()
                        self.assign(target, turn, env)
                        if done := self.block(body, env):
                            return done
                case ast.Pass():
                    pass
                case ast.While():
                    raise Refused("Its program has a loop without a known end.")
                case _:
                    self.unknown(statement)
        return None

    def assign(self, target: ast.expr, value: Any, env: dict[str, Any]) -> None:
        match target:
            case ast.Name(id=name):
                env[name] = value
            case ast.Tuple(elts=parts) if isinstance(value, (tuple, list)) and len(value) == len(parts):
                for part, item in zip(parts, value, strict=True):
                    self.assign(part, item, env)
            case _:
                self.unknown(target)

    def value(self, node: ast.expr, env: dict[str, Any]) -> Any:
        self.walk.step()
        match node:
            case ast.Constant(value=value) if value is None or isinstance(value, (bool, int, float, str)):
                return value
            case ast.Name(id=name):
                if name in env:
                    return env[name]
                return {"inf": math.inf, "nan": math.nan}.get(name, _Name(name))
            case ast.Attribute(value=owner, attr=name):
                return self.attribute(self.value(owner, env), name)
            case ast.Call(func=function, args=args, keywords=keywords):
                return self.call(function, args, keywords, env)
            case ast.List(elts=parts):
                return [self.value(part, env) for part in parts]
            case ast.Tuple(elts=parts):
                return tuple(self.value(part, env) for part in parts)
            case ast.Dict(keys=keys, values=values) if None not in keys:
                return {self.text(k, env): self.value(v, env) for k, v in zip(keys, values, strict=True) if k}
            case ast.Subscript(value=owner, slice=index):
                held = self.value(owner, env)
                if isinstance(held, Tensor):
                    return self.walk.operation("select", [held, 0, self.integer(self.value(index, env))], {})
                if not isinstance(held, (list, tuple)):
                    self.unknown(node)
                return held[self.integer(self.value(index, env))]
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                value = self.value(operand, env)
                return self.walk.operation("neg", [value], {}) if isinstance(value, Tensor) else -_number(value)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return not self.truth(self.value(operand, env))
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return self.value(body if self.truth(self.value(test, env)) else orelse, env)
        return self.unknown(node)

    def attribute(self, owner: Any, name: str) -> Any:
        if isinstance(owner, Instance):
            if name == "training":
                return False
            if name in owner.attributes:
                return self.held(owner.attributes[name])
            for part in self._class(owner).body:
                if isinstance(part, ast.AnnAssign) and part.value and getattr(part.target, "id", "") == name:
                    return self.value(part.value, {})
        elif isinstance(owner, _Name):
            dotted = f"{owner.dotted}.{name}"
            if (number := re.fullmatch(r"CONSTANTS\.c(\d{1,6})", dotted)) and int(number[1]) < len(
                self.script.constants
            ):
                return self.held(self.script.constants[int(number[1])])
            return self.script.functions.get(dotted, _Name(dotted))
        raise Refused(f"Its program asks for {name[:60]!r}, which is not in the file.")

    def text(self, node: ast.expr, env: dict[str, Any]) -> str:
        value = self.value(node, env)
        if not isinstance(value, str):
            raise Misfit("a text is missing")
        return value

    def held(self, value: Any) -> Any:
        """A value of the file, with tensors for the names of tensors; no list of it is shared between passes."""
        self.walk.step()
        if isinstance(value, Weight):
            return self.walk.tensor(value.name)
        if isinstance(value, Tensor):
            return value.clone()
        if isinstance(value, (list, tuple)):
            return type(value)(self.held(item) for item in value)
        return value

    def call(self, function: ast.expr, args: list[ast.expr], keywords: list[ast.keyword], env: dict[str, Any]) -> Any:
        match function:
            case ast.Name(id="annotate" | "unchecked_cast") if len(args) == 2 and function.id not in env:
                return self.value(args[1], env)
            case ast.Name(id="uninitialized"):
                return None
        given = [self.value(arg, env) for arg in args]
        named = {keyword.arg or "": self.value(keyword.value, env) for keyword in keywords}
        if isinstance(function, ast.Attribute):
            owner = self.value(function.value, env)
            if isinstance(owner, Instance):
                return self.method(owner, function.attr, given, named)
            called = self.attribute(owner, function.attr)
        else:
            called = self.value(function, env)
        if isinstance(called, ast.FunctionDef):
            return self.function(called, given, named)
        if not isinstance(called, _Name):
            self.unknown(function)
        self.walk.step()
        match called.dotted.rpartition("."):
            case ("", "", "getattr") if len(given) == 2 and isinstance(given[1], str):
                return self.attribute(given[0], given[1])
            case ("", "", "int") if given:
                return int(self.number(given[0]))
            case ("", "", "float") if given:
                return float(self.number(given[0]))
            case ("", "", "bool") if given:
                return self.truth(given[0])
            case ("torch", _, "device"):
                return self.walk.x.device
            case ("ops.prim", _, "RaiseException"):
                raise Misfit(given[0][:200] if given and isinstance(given[0], str) else "it raises an exception")
            case ("ops.prim", _, name) if name in _PRIMS and given:
                return _PRIMS[name](*given)
            case ("torch" | "ops.aten", _, name):
                return self.operation(name, given, named)
        raise Refused(
            f"Its program uses {called.dotted[:60]!r}, which is not on the list of operations that are known to be "
            "safe: open the state dict instead."
        )

    def operation(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        first = args[0] if args else None
        if name == "size" and isinstance(first, Tensor):
            return list(first.shape) if len(args) == 1 else first.shape[self.integer(args[1])]
        if name in ("dim", "numel") and isinstance(first, Tensor):
            return first.ndim if name == "dim" else first.numel()
        if name == "len" and isinstance(first, Tensor):
            return len(first)
        if name in ("Int", "Float", "Bool", "IntImplicit", "FloatImplicit", "ScalarImplicit", "item") and args:
            return self.truth(first) if name == "Bool" else self.number(first)
        if name in _ON_ANYTHING or (name in _ON_NUMBERS and not any(isinstance(arg, Tensor) for arg in args)):
            done = (_ON_ANYTHING.get(name) or _ON_NUMBERS[name])(*args)
            self.walk.step(sum(len(item) for item in (done, *args) if isinstance(item, (str, list, tuple))))
            if isinstance(done, int) and abs(done) > 2**63:
                raise Refused("Its program computes with numbers that are too long.")
            return done
        if name == "slice" and isinstance(first, list):
            self.walk.step(len(first))
            return first[slice(*args[1:])]
        return self.walk.operation(name, args, kwargs)

    def number(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            if value.is_meta:
                raise Refused("Its program decides by the pixels what to do, which cannot be followed safely.")
            return value.item()
        return _number(value)

    def integer(self, value: Any) -> int:
        value = self.number(value)
        if not isinstance(value, int):
            raise Misfit("a whole number is missing")
        return value

    def truth(self, value: Any) -> bool:
        return bool(self.number(value))

    def unknown(self, node: ast.AST) -> NoReturn:
        raise Refused(f"Its program has a part ({type(node).__name__}) that is not known here.")

    def _class(self, owner: Instance) -> ast.ClassDef:
        if owner.kind not in self.script.classes:
            raise Refused("Its program is incomplete: the code of a module is missing.")
        return self.script.classes[owner.kind]


def _number(value: Any) -> Any:
    if not isinstance(value, (bool, int, float)):
        raise Misfit("a number is missing")
    return value


def _of_numbers(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: function(*(_number(arg) for arg in args))


def _simple(value: Any) -> Any:
    """What is compared at once: a number or text, or a list of these."""
    for item in value if isinstance(value, (list, tuple)) else (value,):
        if not isinstance(item, (bool, int, float, str, torch.device, type(None))):
            raise Misfit("a number is missing")
    return value


def _of_simple(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: function(*map(_simple, args))


def _add(a: Any, b: Any, alpha: Any = 1) -> Any:
    if isinstance(a, list) and isinstance(b, list):
        return _short(a + b)
    return _number(a) + _number(b) * _number(alpha)


def _mul(a: Any, b: Any) -> Any:
    if isinstance(a, list) and isinstance(b, int) and len(a) * b <= _LONGEST_LIST:
        return a * b
    return _number(a) * _number(b)


def _pow(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int) and abs(a) > 1:
        b = min(b, 64)
    return _number(a) ** _number(b)


def _append(items: list[Any], item: Any) -> list[Any]:
    items.append(item)
    return _short(items)


def _set_item(items: list[Any], index: int, item: Any) -> list[Any]:
    items[index] = item
    return items


def _short(items: list[Any]) -> list[Any]:
    if len(items) > _LONGEST_LIST:
        raise Refused("Its program makes lists that are too long.")
    return items


_ON_ANYTHING: Final[Mapping[str, Callable[..., Any]]] = {
    "__is__": lambda a, b: a is b,
    "__isnot__": lambda a, b: a is not b,
    "append": _append,
    "_set_item": _set_item,
    "format": lambda text, *_: text,
    "percentFormat": lambda text, *_: text,
    "is_floating_point": lambda x: x.is_floating_point(),
    "is_complex": lambda _: False,
    "is_autocast_enabled": lambda *_: False,
    "is_autocast_cpu_enabled": lambda *_: False,
    "is_grad_enabled": lambda *_: True,
}
_ON_NUMBERS: Final[Mapping[str, Callable[..., Any]]] = {
    "add": _add,
    "mul": _mul,
    "pow": _pow,
    "sub": _of_numbers(operator.sub),
    "neg": _of_numbers(operator.neg),
    "div": _of_numbers(operator.truediv),
    "floordiv": _of_numbers(operator.floordiv),
    "floor_divide": _of_numbers(operator.floordiv),
    "remainder": _of_numbers(operator.mod),
    "floor": _of_numbers(math.floor),
    "ceil": _of_numbers(math.ceil),
    "sqrt": _of_numbers(math.sqrt),
    "lt": _of_numbers(operator.lt),
    "le": _of_numbers(operator.le),
    "gt": _of_numbers(operator.gt),
    "ge": _of_numbers(operator.ge),
    "eq": _of_simple(operator.eq),
    "ne": _of_simple(operator.ne),
    "__and__": _of_numbers(operator.and_),
    "__or__": _of_numbers(operator.or_),
    "__xor__": _of_numbers(operator.xor),
    "__not__": _of_numbers(operator.not_),
    "__contains__": _of_simple(operator.contains),
    "__getitem__": operator.getitem,
    "len": len,
    "list": list,
    "copy": list,
}
_PRIMS: Final[Mapping[str, Callable[..., Any]]] = {
    "NumToTensor": lambda value: torch.tensor(_number(value)),
    "dtype": lambda x: _CODES.get(x.dtype, -1),
    "device": lambda x: x.device,
    "is_cuda": lambda x: x.is_cuda,
    "is_quantized": lambda _: False,
    "is_nested": lambda _: False,
    "type": lambda _: "cpu",
    "is_mkldnn": lambda _: False,
    "is_sparse": lambda _: False,
    "requires_grad": lambda _: True,
    "shape": lambda x: list(x.shape),
    "unchecked_unwrap_optional": lambda x: x,
    "min": _of_simple(min),
    "max": _of_simple(max),
    "abs": _of_numbers(abs),
}
