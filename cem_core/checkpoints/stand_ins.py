"""A pickle reader that rebuilds tensors and plain containers; everything else becomes an inert stand-in.

No name in a file is imported, nothing is called on its behalf but the few functions below, and no object that existed
before can be changed by it. Python's own reader, and torch's `weights_only` one, would do the rest as a file wishes:
fill any memory, take hours over keys with colliding hashes, or overflow the stack over a key that is nested deeply.
Here every opcode is paid for, and only text and numbers are keys. A whole pickled module stays readable: its tensors,
and the names of its classes.
"""

from __future__ import annotations

import pickle
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import prod
from types import FunctionType
from typing import Any, BinaryIO, Final

import torch
from torch import Tensor, UntypedStorage

_ROOM: Final = 64 * 2**20
"""Bytes that the objects of one pickle may take, beside the data of its tensors: some 20,000 tensors."""
_LONGEST: Final = 2**16
"""Texts are cut after so many bytes. Longer ones are pickled arrays, of which nothing is read."""
_LONGEST_NAME: Final = 200
_MOST_NAMES: Final = 1000


class Unreadable(ValueError):
    """What is wrong with a file; goes on after its name."""


DAMAGED: Final = "is a damaged or incomplete torch file: copy or download it again."
_CROWDED: Final = "holds more Python objects than a checkpoint has: save its state dict alone."


@dataclass(frozen=True, slots=True)
class Name:
    """Takes the place of a class or function that is not trusted."""

    origin: str
    """Its dotted name."""


class StandIn:
    """Takes the place of an object of a class that is not trusted, and does nothing."""

    __slots__ = ("entries", "origin", "state")

    def __init__(self, origin: str) -> None:
        self.origin = origin
        """The dotted name of that class."""
        self.state: Any = None
        self.entries: dict[Any, Any] = {}

    def attributes(self) -> dict[str, Any]:
        """The instance dictionary that was pickled, or what came nearest to one."""
        states = self.state if isinstance(self.state, tuple) else (self.state,)  # two with slots
        return next((state for state in states[:2] if isinstance(state, dict) and state), {})


@dataclass(frozen=True, slots=True)
class Storage:
    """Numbers that tensors share."""

    data: UntypedStorage
    """On the meta device where only shapes are read."""
    dtype: torch.dtype


# ---- what is rebuilt -------------------------------------------------------------------------------------------------


def _keyed(pairs: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
    """Without keys other than text and small numbers: these cannot be made to collide, and are hashed at once."""
    for key, value in pairs:
        if key is None or type(key) in (str, bool, float) or (type(key) is int and abs(key) < 2**60):
            yield key, value


def _mapping(*args: Any) -> dict[Any, Any]:
    (items,) = args or ((),)
    if isinstance(items, dict):
        return dict(items)
    return dict(_keyed((key, value) for key, value in items if isinstance(items, list | tuple)))


def _sequence(*args: Any) -> tuple[Any, ...]:
    (items,) = args or ((),)
    if not isinstance(items, list | tuple):
        raise Unreadable(DAMAGED)
    return tuple(items)


def _list(*args: Any) -> list[Any]:
    return list(_sequence(*args))


def _set(*args: Any) -> set[Any]:
    return {key for key, _ in _keyed((item, None) for item in _sequence(*args))}


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _first(data: Any = None, *_: Any) -> Any:
    """Of a parameter, what it wraps; its gradients and attributes are left."""
    return data


def _object(kind: Any = None, *_: Any) -> StandIn:
    return StandIn(kind.origin if isinstance(kind, Name) else "")


def _empty(dtype: Any, size: Any, *_: Any) -> Tensor:
    """A tensor without data, which no family takes for weights."""
    if not isinstance(dtype, torch.dtype):
        raise Unreadable(DAMAGED)
    return torch.empty(_sizes(size), dtype=dtype, device="meta")


def _sizes(numbers: Any) -> tuple[int, ...]:
    if not isinstance(numbers, list | tuple) or len(numbers) > 64:
        raise Unreadable(DAMAGED)
    if any(type(number) is not int or not 0 <= number < 2**60 for number in numbers):
        raise Unreadable(DAMAGED)
    return tuple(numbers)


def tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor in a storage, and within it; one that repeats numbers, as expanded ones do, is without data."""
    sizes, strides, (start,) = _sizes(size), _sizes(stride), _sizes((offset,))
    if not isinstance(storage, Storage) or len(sizes) != len(strides):
        raise Unreadable(DAMAGED)
    dtype = dtype or storage.dtype
    count, held = prod(sizes), storage.data.nbytes() // dtype.itemsize
    last = start + sum((side - 1) * step for side, step in zip(sizes, strides, strict=True))
    if count and last >= held:
        raise Unreadable(DAMAGED)
    if not count or count > held:
        return torch.empty(sizes, dtype=dtype, device=storage.data.device if not count else "meta")
    return torch.empty(0, dtype=dtype, device=storage.data.device).set_(storage.data, start, sizes, strides)


def _tensor_of(storage: Any, offset: Any, size: Any, stride: Any, _: Any, __: Any, dtype: Any, *___: Any) -> Tensor:
    if not isinstance(dtype, torch.dtype):
        raise Unreadable(DAMAGED)
    return tensor(storage, offset, size, stride, dtype=dtype)


def _of_type(function: Any, _: Any, args: Any, *__: Any) -> Any:
    """A tensor of a class that is derived, or one with attributes."""
    if function not in (tensor, _tensor_of, _first):
        raise Unreadable(DAMAGED)
    return function(*args)


def _quantised(storage: Any, _: Any, size: Any, *__: Any) -> Tensor:
    return _empty(storage.dtype if isinstance(storage, Storage) else None, size)


def _sparse(_: Any, data: Any, *__: Any) -> Tensor:
    size = next((part for part in data if isinstance(part, tuple) and all(type(n) is int for n in part)), None)
    return _empty(torch.float32, size)


_BUILDERS: Final[dict[str, Callable[..., Any]]] = {
    "collections.OrderedDict": _mapping,
    "torch._utils._rebuild_tensor": tensor,
    "torch._utils._rebuild_tensor_v2": tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._utils._rebuild_meta_tensor_no_storage": _empty,
    "torch._utils._rebuild_qtensor": _quantised,
    "torch._utils._rebuild_sparse_tensor": _sparse,
    "torch.nn.parameter.Parameter": _first,
    "torch.autograd.variable.Variable": _first,
    "torch.Size": _sequence,
    "copyreg._reconstructor": _object,
    "copy_reg._reconstructor": _object,
    **{f"torch.{module}._rebuild_from_type{v}": _of_type for module in ("tensor", "_tensor") for v in ("", "_v2")},
    **{
        f"{module}.{name}": builder
        for module in ("builtins", "__builtin__")  # the second is Python 2's, which protocol 2 writes
        for name, builder in {
            "dict": _mapping, "list": _list, "tuple": _sequence, "set": _set, "frozenset": _set
        }.items()
    },
}  # fmt: skip
_UNTOLD: Final = {"collections.Counter", "_codecs.encode", "torch.device", "torch.serialization._get_layout"} | {
    f"{module}.{name}"
    for module in ("builtins", "__builtin__")
    for name in ("int", "float", "bool", "complex", "str", "bytes", "bytearray", "object")
}
"""Not rebuilt, and no loss."""
_STORAGES: Final = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "QInt8Storage": torch.int8,
    "QInt32Storage": torch.int32,
    "QUInt8Storage": torch.uint8,
    "QUInt4x2Storage": torch.uint8,
    "QUInt2x4Storage": torch.uint8,
    "UntypedStorage": torch.uint8,
}


# ---- the reader ------------------------------------------------------------------------------------------------------


class Reader:
    """Reads one pickle from where a file stands.

    Args:
        names: filled with the names that were met and not rebuilt.
        persistent: gives what a pickle refers to beside itself: storages.
    """

    def __init__(
        self,
        file: BinaryIO,
        names: set[str] | None = None,
        persistent: Callable[[tuple[Any, ...]], Any] | None = None,
    ) -> None:
        self._file = file
        self._names = set() if names is None else names
        self._persistent = persistent
        self._room = _ROOM
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._met: dict[str, Any] = {}
        here = file.tell()
        self._end = file.seek(0, 2)
        file.seek(here)

    def load(self) -> Any:
        """Raises nearly anything for a pickle that is damaged; never runs what is in it."""
        while (code := self._read(1)) != pickle.STOP:
            do, cost, *args = _OPCODES[code]
            self._pay(cost)
            do(self, *args)
        return self._stack.pop()

    def _pay(self, cost: int) -> None:
        self._room -= cost
        if self._room < 0:
            raise Unreadable(_CROWDED)

    def _read(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) < count:
            raise Unreadable(DAMAGED)
        return data

    def _line(self) -> bytes:
        line = self._file.readline(_LONGEST)
        if line[-1:] != b"\n":
            raise Unreadable(DAMAGED)
        return line[:-1]

    def _items(self) -> list[Any]:
        """What stands above the mark, which goes."""
        items, self._stack = self._stack, self._below.pop()
        return items

    # Values

    def _constant(self, value: Any) -> None:
        self._stack.append(value)

    def _fresh(self, make: Callable[[], Any]) -> None:
        self._stack.append(make())

    def _number(self, layout: struct.Struct) -> None:
        self._stack.append(layout.unpack(self._read(layout.size))[0])

    def _integer(self) -> None:
        """As Python 2 writes larger ones, with an L behind long ones."""
        self._stack.append(int(self._line()[:20].rstrip(b"L")))

    def _counted(self, width: int, make: Callable[[bytes], Any]) -> None:
        length = int.from_bytes(self._read(width), "little")
        data = self._read(min(length, _LONGEST))
        if length > len(data):
            if length - len(data) > self._end - self._file.tell():
                raise Unreadable(DAMAGED)
            self._file.seek(length - len(data), 1)
        self._pay(4 * len(data))
        self._stack.append(make(data))

    # Stack and memo

    def _skip(self, width: int) -> None:
        self._read(width)

    def _mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _pop(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._items()

    def _again(self) -> None:
        self._stack.append(self._stack[-1])

    def _put(self, width: int) -> None:
        at = int.from_bytes(self._read(width), "little") if width else len(self._memo)
        self._memo[at] = self._stack[-1]

    def _get(self, width: int) -> None:
        self._stack.append(self._memo[int.from_bytes(self._read(width), "little")])

    # Containers

    def _tuple(self) -> None:
        items = tuple(self._items())
        self._stack.append(items)

    def _tuple_of(self, count: int) -> None:
        self._stack[-count:] = [tuple(self._stack[-count:])]

    def _frozen(self) -> None:
        items = _set(self._items())
        self._stack.append(items)

    def _append(self) -> None:
        item = self._stack.pop()
        self._extend([item])

    def _appends(self) -> None:
        self._extend(self._items())

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, set):
            target |= _set(items)

    def _set_item(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._update([key, value])

    def _set_items(self) -> None:
        self._update(self._items())

    def _update(self, items: list[Any]) -> None:
        self._pay(32 * len(items))
        target = self._stack[-1]
        if isinstance(target, StandIn):
            target = target.entries
        if isinstance(target, dict):
            target.update(_keyed(zip(items[::2], items[1::2], strict=True)))

    # Objects

    def _global(self) -> None:
        module, name = (_text(self._line()) for _ in range(2))
        self._stack.append(self._named(module, name))

    def _stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise Unreadable(DAMAGED)
        self._stack.append(self._named(module, name))

    def _named(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch" and isinstance(dtype := vars(torch).get(name), torch.dtype):
            return dtype
        origin = f"{module}.{name}"[:_LONGEST_NAME]
        if origin in _BUILDERS:
            return _BUILDERS[origin]
        if origin not in self._met:
            self._pay(1000)
            self._met[origin] = Name(origin)
            if origin not in _UNTOLD and len(self._names) < _MOST_NAMES:
                self._names.add(origin)
        return self._met[origin]

    def _called(self, function: Any, args: Any) -> Any:
        if isinstance(function, Name | StandIn):
            return StandIn(function.origin)
        if not isinstance(function, FunctionType) or type(args) is not tuple:  # no others than _BUILDERS come here
            raise Unreadable(DAMAGED)
        self._pay(sum(_KEPT * len(arg) for arg in args if isinstance(arg, list | tuple | dict)))
        return function(*args)

    def _reduce(self) -> None:
        args, function = self._stack.pop(), self._stack.pop()
        self._stack.append(self._called(function, args))

    def _new(self, keywords: bool) -> None:
        if keywords:
            self._stack.pop()
        self._reduce()

    def _instance(self) -> None:
        function, *args = self._items()
        self._stack.append(self._called(function, tuple(args)))

    def _build(self) -> None:
        state = self._stack.pop()
        self._fill(self._stack[-1], state)

    def _fill(self, made: Any, state: Any) -> None:
        if isinstance(made, StandIn):
            made.state = state

    def _persist(self) -> None:
        key = self._stack.pop()
        if self._persistent is None or type(key) is not tuple:
            raise Unreadable(DAMAGED)
        self._stack.append(self._persistent(key))


_SMALL, _KEPT, _LARGE = 48, 128, 400
"""What objects take in memory, at most: a number or its place, a place in the memo, a container."""

_OPCODES: Final[dict[bytes, tuple[Any, ...]]] = {
    pickle.PROTO: (Reader._skip, 0, 1),
    pickle.FRAME: (Reader._skip, _SMALL, 8),
    pickle.NONE: (Reader._constant, _SMALL, None),
    pickle.NEWTRUE: (Reader._constant, _SMALL, True),
    pickle.NEWFALSE: (Reader._constant, _SMALL, False),
    pickle.EMPTY_TUPLE: (Reader._constant, _SMALL, ()),
    pickle.EMPTY_LIST: (Reader._fresh, _LARGE, list),
    pickle.EMPTY_DICT: (Reader._fresh, _LARGE, dict),
    pickle.EMPTY_SET: (Reader._fresh, _LARGE, set),
    pickle.BININT: (Reader._number, _SMALL, struct.Struct("<i")),
    pickle.BININT1: (Reader._number, _SMALL, struct.Struct("<B")),
    pickle.BININT2: (Reader._number, _SMALL, struct.Struct("<H")),
    pickle.BINFLOAT: (Reader._number, _SMALL, struct.Struct(">d")),
    pickle.INT: (Reader._integer, _SMALL),
    pickle.LONG: (Reader._integer, _SMALL),
    pickle.LONG1: (Reader._counted, _SMALL, 1, pickle.decode_long),
    pickle.LONG4: (Reader._counted, _SMALL, 4, pickle.decode_long),
    pickle.SHORT_BINUNICODE: (Reader._counted, _KEPT, 1, _text),
    pickle.BINUNICODE: (Reader._counted, _KEPT, 4, _text),
    pickle.BINUNICODE8: (Reader._counted, _KEPT, 8, _text),
    pickle.SHORT_BINSTRING: (Reader._counted, _KEPT, 1, _text),
    pickle.BINSTRING: (Reader._counted, _KEPT, 4, _text),
    pickle.SHORT_BINBYTES: (Reader._counted, _KEPT, 1, bytes),
    pickle.BINBYTES: (Reader._counted, _KEPT, 4, bytes),
    pickle.BINBYTES8: (Reader._counted, _KEPT, 8, bytes),
    pickle.BYTEARRAY8: (Reader._counted, _KEPT, 8, bytes),
    pickle.MARK: (Reader._mark, _KEPT),
    pickle.POP: (Reader._pop, _SMALL),
    pickle.POP_MARK: (Reader._items, _SMALL),
    pickle.DUP: (Reader._again, _SMALL),
    pickle.BINPUT: (Reader._put, _KEPT, 1),
    pickle.LONG_BINPUT: (Reader._put, _KEPT, 4),
    pickle.MEMOIZE: (Reader._put, _KEPT, 0),
    pickle.BINGET: (Reader._get, _SMALL, 1),
    pickle.LONG_BINGET: (Reader._get, _SMALL, 4),
    pickle.TUPLE: (Reader._tuple, _KEPT),
    pickle.TUPLE1: (Reader._tuple_of, _KEPT, 1),
    pickle.TUPLE2: (Reader._tuple_of, _KEPT, 2),
    pickle.TUPLE3: (Reader._tuple_of, _KEPT, 3),
    pickle.FROZENSET: (Reader._frozen, _LARGE),
    pickle.APPEND: (Reader._append, _SMALL),
    pickle.APPENDS: (Reader._appends, _SMALL),
    pickle.ADDITEMS: (Reader._appends, _SMALL),
    pickle.SETITEM: (Reader._set_item, _SMALL),
    pickle.SETITEMS: (Reader._set_items, _SMALL),
    pickle.GLOBAL: (Reader._global, _SMALL),
    pickle.STACK_GLOBAL: (Reader._stack_global, _SMALL),
    pickle.REDUCE: (Reader._reduce, _LARGE),
    pickle.NEWOBJ: (Reader._new, _LARGE, False),
    pickle.NEWOBJ_EX: (Reader._new, _LARGE, True),
    pickle.OBJ: (Reader._instance, _LARGE),
    pickle.BUILD: (Reader._build, _SMALL),
    pickle.BINPERSID: (Reader._persist, _LARGE),
}
"""Opcode → what it does, what that costs, and with which arguments. Those of protocol 0 are not written since 2003."""


# ---- pickled modules -------------------------------------------------------------------------------------------------


def state_dict(module: StandIn) -> tuple[dict[str, Any], dict[str, str]]:
    """Of a pickled module: tensors by dotted key, and what its classes say (`activation`, `stem_padding`).

    Both are empty for an object that is no module.
    """
    tensors: dict[str, Any] = {}
    said: dict[str, str] = {}
    for prefix, part in _parts(module):
        attributes = part.attributes()
        for kind in ("_parameters", "_buffers"):
            held = attributes.get(kind)
            if isinstance(held, dict):
                transient = attributes.get("_non_persistent_buffers_set")
                transient = transient if isinstance(transient, set) else set()
                tensors |= {
                    f"{prefix}{key}": value.detach()
                    for key, value in held.items()
                    if isinstance(value, torch.Tensor) and key not in transient
                }
        if activation := _activation(part):
            said.setdefault("activation", activation)
        if prefix.endswith("conv1.") and prefix.count(".") <= 2 and _is_two(attributes.get("padding")):
            said["stem_padding"] = "2"
    return tensors, said


def _is_two(padding: Any) -> bool:
    """Whether a padding is two pixels; what was pickled may be anything, even tensors, that `==` would fail on."""
    return isinstance(padding, tuple) and len(padding) == 2 and all(type(n) is int and n == 2 for n in padding)


def _parts(module: StandIn) -> Iterator[tuple[str, StandIn]]:
    """A module and all below it, with their prefixes; each once, as shared ones are."""
    waiting, seen = deque([("", module)]), {id(module)}
    while waiting:
        prefix, part = waiting.popleft()
        yield prefix, part
        held = part.attributes().get("_modules")
        for key, child in held.items() if isinstance(held, dict) else ():
            if isinstance(child, StandIn) and id(child) not in seen and len(prefix) < 400:
                seen.add(id(child))
                waiting.append((f"{prefix}{key}.", child))


def _activation(part: StandIn) -> str:
    """The name that families know for an activation module; empty for any other."""
    kind = part.origin.rsplit(".", 1)[-1]
    if kind == "LeakyReLU":
        slope = part.attributes().get("negative_slope")
        return f"leaky relu {slope if isinstance(slope, float) else 0.01}"
    return {"ReLU": "relu", "SiLU": "silu", "Swish": "silu", "Softplus": "softplus", "GELU": "gelu", "ELU": "elu"}.get(
        kind, ""
    )
