"""A pickle reader that rebuilds tensors and plain containers; everything else becomes an inert stand-in.

Nothing is imported or called on behalf of a file: a name that is not on the short list below gives a fresh class that
only keeps what it is given. A whole pickled module thus stays readable: its tensors, and the names of its classes.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Final

import torch


class StandIn:
    """Takes the place of an object of a class that is not trusted, and does nothing."""

    origin = ""
    """The dotted name of that class."""
    dump_patches = False
    """torch would write a file for a class that says so."""

    state: Any
    entries: dict[Any, Any]

    def __new__(cls, *_: Any, **__: Any) -> StandIn:
        self = object.__new__(cls)
        self.state, self.entries = None, {}
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.entries[key] = value

    def __call__(self, *_: Any, **__: Any) -> StandIn:
        return type(self)()

    def append(self, item: Any) -> None:
        """What a list would do."""

    def extend(self, items: Any) -> None:
        """What a list would do."""

    def attributes(self) -> dict[str, Any]:
        """The instance dictionary that was pickled, or what came nearest to one."""
        state = self.state
        if isinstance(state, tuple) and len(state) == 2:  # with slots
            state = state[0] or state[1]
        return state if isinstance(state, dict) else {}


def _bytes(*args: Any) -> bytearray:
    """`bytearray`, but not of a length that a file claims without holding it."""
    if any(isinstance(arg, int) for arg in args):
        raise pickle.UnpicklingError("an array of bytes without its bytes")
    return bytearray(*args)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """`_codecs.encode`, as pickles of protocol 2 write bytes with it; other encodings would be imported by name."""
    return text.encode({"latin1": "latin1", "latin-1": "latin1"}.get(encoding, "utf-8"))


_ALLOWED: Final[dict[tuple[str, str], Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    ("torch.nn.parameter", "Parameter"): torch.nn.Parameter,
    ("_codecs", "encode"): _encode,
    **{
        ("torch._utils", name): getattr(torch._utils, name)
        for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_parameter_with_state")
    },
    **{
        (module, kind.__name__): kind
        for kind in (set, frozenset, list, dict, tuple, int, float, bool, complex, str)
        for module in ("builtins", "__builtin__")  # the second is Python 2's, which protocol 2 writes
    },
    ("builtins", "bytearray"): _bytes,
    ("__builtin__", "bytearray"): _bytes,
}


def reader() -> tuple[Any, set[str]]:
    """What `torch.load` takes as `pickle_module`, and the names that it will have met and not rebuilt."""
    met: dict[tuple[str, str], type[StandIn]] = {}
    names: set[str] = set()

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if (known := _ALLOWED.get((module, name))) is not None:
                return known
            if module == "torch" and isinstance(dtype := vars(torch).get(name), torch.dtype):
                return dtype
            origin = f"{module}.{name}"
            names.add(origin)
            return met.setdefault((module, name), type("StandIn", (StandIn,), {"origin": origin}))

    def load(file: Any, **options: Any) -> Any:
        return Unpickler(file, **options).load()

    def loads(data: bytes, **options: Any) -> Any:
        return load(io.BytesIO(data), **options)

    # torch asks for a module's name, and calls dump nowhere
    return SimpleNamespace(Unpickler=Unpickler, load=load, loads=loads, __name__="stand_ins"), names


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
        if prefix.endswith("conv1.") and prefix.count(".") <= 2 and attributes.get("padding") == (2, 2):
            said["stem_padding"] = "2"
    return tensors, said


def _parts(module: StandIn) -> Iterator[tuple[str, StandIn]]:
    """A module and all below it, with their prefixes; each once, as shared ones are."""
    waiting, seen = [("", module)], {id(module)}
    while waiting:
        prefix, part = waiting.pop(0)
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
        return f"leaky relu {part.attributes().get('negative_slope', 0.01)}"
    return {"ReLU": "relu", "SiLU": "silu", "Swish": "silu", "Softplus": "softplus", "GELU": "gelu", "ELU": "elu"}.get(
        kind, ""
    )
