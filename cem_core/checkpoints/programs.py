"""TorchScript files and torch.export programs, read without the loaders of these formats.

`torch.jit.load` runs methods of the file while it reads, and `torch.export.load` evaluates expressions and pickles in
it. Here the code of the one is parsed, the graph of the other is read as JSON, tensors are taken from their bytes, and
`cem_core.models.program` walks what came out. Nothing is extracted, imported or evaluated.
"""

from __future__ import annotations

import ast
import io
import json
import pickle
import re
import sys
import zipfile
from collections.abc import Callable, Collection, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from cem_core.messages import Refused
from cem_core.models.program import Graph, Instance, Misfit, Node, Place, Program, Ref, Script, Weight

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST_CODE: Final = 8 * 2**20
_MOST_PICKLE: Final = 16 * 2**20
_MOST_JSON: Final = 128 * 2**20
_DEEPEST: Final = 100
_OLD_EXPORT: Final = "serialized_exported_program.json"


def is_torchscript(names: Collection[str]) -> bool:
    """Whether a zip with these members is a TorchScript file."""
    roots = {name.removesuffix("constants.pkl") for name in names if re.fullmatch(r"[^/]+/constants\.pkl", name)}
    return any(name.startswith(f"{root}code/") for root in roots for name in names)


def is_export(names: Collection[str]) -> bool:
    """Whether a zip with these members is a torch.export program, or a package of compiled ones."""
    if _OLD_EXPORT in names:
        return True
    return any(re.fullmatch(r"[^/]+/(archive_format|models/[^/]+\.json|data/aotinductor/.+)", name) for name in names)


def may_be_compressed(name: str) -> bool:
    """Whether torch itself deflates this member: the code of a TorchScript file. It is read up to a limit only."""
    return re.fullmatch(r"[^/]+/code/.+\.(py|debug_pkl)", name) is not None


def read_torchscript(path: Path) -> Program:
    """The program in a TorchScript file. Raises Refused if it cannot be used, or not safely."""
    with _opened(path) as archive:
        classes: dict[str, ast.ClassDef] = {}
        functions: dict[str, ast.FunctionDef] = {}
        room = _MOST_CODE
        for name in archive.names("code/", ".py"):
            text = archive.read(f"code/{name}.py", room)
            room -= len(text)
            for part in _parsed(text.decode()):
                qualified = f"{name.replace('/', '.')}.{getattr(part, 'name', '')}"
                if isinstance(part, ast.ClassDef):
                    classes[qualified] = part
                elif isinstance(part, ast.FunctionDef):
                    functions[qualified] = part
                else:
                    raise Refused("Its code has something else than modules and functions.")
        reader = _Objects(archive, classes)
        root = reader.load("data")
        constants = reader.load("constants")
        if not isinstance(root, Instance) or not isinstance(constants, tuple):
            raise Refused("It holds something else than a module.")
        example: tuple[int | None, ...] = (None, None, None, None)
        if archive.has("traced_inputs.pkl"):
            example = _traced(_Objects(archive, classes).load("traced_inputs"))
        script = Script(root, classes, functions, constants)
        return Program(script, reader.tensors, reader.trained(root), example)


def read_export(path: Path) -> Program:
    """The program in a file of torch.export.save. Raises Refused if it cannot be used, or not safely."""
    with _opened(path) as archive:
        if archive.names("data/aotinductor/", ""):
            raise Refused("It holds compiled machine code, which is never run: save the exported program itself.")
        if archive.has(_OLD_EXPORT):
            program = archive.json(_OLD_EXPORT)
            weights, constants = "serialized_state_dict.pt", "serialized_constants.pt"
            stored = _pickled(archive, weights) | _pickled(archive, constants)
        else:
            models = archive.names("models/", ".json")
            if len(models) != 1:
                raise Refused(f"It holds {len(models)} programs: save the one to be opened alone.")
            program = archive.json(f"models/{models[0]}.json")
            stored = {}
            for folder, kind in (("weights", "weights"), ("constants", "constants")):
                if archive.has(f"data/{folder}/{models[0]}.pt"):
                    stored |= _pickled(archive, f"data/{folder}/{models[0]}.pt")
                else:
                    config = archive.json(f"data/{folder}/{models[0]}_{kind}_config.json")["config"]
                    stored |= _payload(archive, f"data/{folder}", config)
        return _graph(program, stored)


# Archives


class _Archive:
    """A zip whose members are read into memory, whole and only up to a limit."""

    def __init__(self, file: zipfile.ZipFile, size: int) -> None:
        self._file = file
        self._size = size
        first = file.namelist()[0]
        self.root = f"{first.split('/')[0]}/" if "/" in first and _OLD_EXPORT not in file.namelist() else ""

    def has(self, name: str) -> bool:
        return self.root + name in self._file.NameToInfo

    def names(self, folder: str, suffix: str) -> list[str]:
        start = self.root + folder
        found = [name for name in self._file.namelist() if name.startswith(start) and name.endswith(suffix)]
        return [name[len(start) : len(name) - len(suffix)] for name in found]

    def read(self, name: str, limit: int | None = None) -> bytes:
        info = self._file.getinfo(self.root + name)
        if info.compress_type != zipfile.ZIP_STORED and not may_be_compressed(info.filename):
            raise Refused("It is a zip archive that torch did not write.")
        limit = self._size if limit is None else limit
        with self._file.open(info) as member:
            data = member.read(min(limit, info.file_size) + 1)
        if len(data) > limit:
            raise Refused(f"Its part {name[:60]} is too large.")
        if len(data) != info.file_size:
            raise Refused("It is damaged: copy or download it again.")
        return data

    def json(self, name: str) -> Any:
        return json.loads(self.read(name, _MOST_JSON))


@contextmanager
def _opened(path: Path) -> Iterator[_Archive]:
    """Whatever a file makes fail becomes one sentence that begins with its name."""
    try:
        with zipfile.ZipFile(path) as file:
            yield _Archive(file, path.stat().st_size)
    except Refused as error:
        text = str(error)
        raise Refused(f"{path.name} cannot be used: {text[0].lower()}{text[1:]}") from error
    except Misfit as error:
        raise Refused(f"{path.name} cannot be used: its program fails ({error}).") from error
    except OSError:
        raise
    except Exception as error:  # a damaged or hostile file makes zipfile, json, ast and torch raise nearly anything
        raise Refused(f"{path.name} is damaged or was saved in a way that is not known here: save it again.") from error


_DTYPES: Final = {
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ShortStorage": torch.int16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "HalfStorage": torch.float16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "BoolStorage": torch.bool,
    "BFloat16Storage": torch.bfloat16,
}


def _tensor(data: bytes, dtype: torch.dtype, sizes: Any, strides: Any, offset: Any) -> Tensor:
    """A tensor over bytes; one that would be larger than they are is refused."""
    numbers = [*sizes, *strides, offset]
    if len(sizes) != len(strides) or any(type(number) is not int or number < 0 for number in numbers):
        raise Refused("It has a tensor of an impossible shape.")
    count = 1
    for size in sizes:
        count *= size
    if not count:
        return torch.empty(tuple(sizes), dtype=dtype)
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    held = len(data) // dtype.itemsize
    if last >= held or count > held:
        raise Refused("It has a tensor that is larger than its data.")
    return torch.frombuffer(bytearray(data), dtype=dtype, count=held).as_strided(sizes, strides, offset)


# TorchScript


def _parsed(text: str) -> list[ast.stmt]:
    depth = 0
    for sign in re.findall(r"[()\[\]{}]", text):
        depth += 1 if sign in "([{" else -1
        if depth > _DEEPEST:
            raise Refused("Its code is nested too deeply.")
    return ast.parse(text).body


class _Objects:
    """Reads the pickles of a TorchScript file: modules become Instances, their tensors Weights."""

    def __init__(self, archive: _Archive, classes: Mapping[str, ast.ClassDef]) -> None:
        self._archive = archive
        self._classes = classes
        self.tensors: dict[str, Tensor] = {}
        self._last: tuple[str, bytes] = ("", b"")
        little = not archive.has("byteorder") or archive.read("byteorder", 16) == b"little"
        if little != (sys.byteorder == "little"):
            raise Refused("It was written by a machine of the other byte order: save its state dict there.")

    def load(self, name: str) -> Any:
        objects, archive, classes = self, self._archive, self._classes

        class Unpickler(pickle._Unpickler):
            """The one written in Python, whose memory goes with what it has read."""

            def find_class(self, module: str, called: str) -> Any:
                qualified = f"{module}.{called}"
                if (kind := classes.get(qualified)) is not None:
                    bases = [base.id for base in kind.bases if isinstance(base, ast.Name)]
                    methods = {part.name for part in kind.body if isinstance(part, ast.FunctionDef)}
                    if bases != ["Module"] or "__setstate__" in methods:
                        raise Refused("It holds objects that run code when they are read: save its state dict instead.")
                    return type("Module", (_Module,), {"kind": qualified})
                if module == "torch" and called in _DTYPES:
                    return _DTYPES[called]
                known: dict[str, Callable[..., Any]] = {
                    "collections.OrderedDict": _Hooks,
                    "torch._utils._rebuild_tensor_v2": objects.tensor,
                    "torch.jit._pickle.restore_type_tag": lambda value, _: value,
                    **{f"torch.jit._pickle.build_{kind}list": list for kind in ("int", "double", "bool", "tensor")},
                }
                if qualified in known:
                    return known[qualified]
                if "qtensor" in called or "quantized" in qualified:
                    raise Refused("It is quantised, and cannot be differentiated: save it before it is quantised.")
                raise Refused(f"It holds an object of the class {qualified[:80]!r}, which is not rebuilt.")

            def persistent_load(self, key: Any) -> Any:
                what, dtype, storage, *_ = key
                if what != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(storage, str):
                    raise Refused("It is damaged: copy or download it again.")
                folder = "constants" if name == "constants" else "traced_inputs" if name == "traced_inputs" else "data"
                return f"{folder}/{storage}", dtype

        return _plain(Unpickler(io.BytesIO(archive.read(f"{name}.pkl", _MOST_PICKLE))).load())

    def tensor(self, storage: Any, offset: Any, sizes: Any, strides: Any, *_: Any) -> Any:
        name, dtype = storage
        if name.startswith("traced_inputs/"):
            return _Shape(tuple(sizes))
        if self._last[0] != name:
            self._last = (name, self._archive.read(name))
        tensor = _tensor(self._last[1], dtype, sizes, strides, offset)
        if not tensor.ndim and not tensor.is_floating_point():
            return tensor.clone()  # a number, with which sizes are computed
        key = f"{name}.{len(self.tensors)}"
        self.tensors[key] = tensor
        return Weight(key)

    def trained(self, root: Instance) -> set[str]:
        """The weights that classes list as parameters."""
        found: set[str] = set()
        waiting, seen = [root], {id(root)}
        while waiting:
            owner = waiting.pop()
            listed = _listed(self._classes[owner.kind], "__parameters__")
            for name, value in owner.attributes.items():
                if isinstance(value, Weight) and name in listed:
                    found.add(value.name)
                elif isinstance(value, Instance) and id(value) not in seen:
                    seen.add(id(value))
                    waiting.append(value)
        return found


class _Module(Instance):
    """What the unpickler makes, without calling `__init__`, and fills."""

    def __new__(cls) -> _Module:
        self = object.__new__(cls)
        self.attributes = {}
        return self

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise Refused("It is damaged: copy or download it again.")
        self.attributes.update({str(key): _plain(value) for key, value in state.items()})


class _Hooks(dict[str, Any]):
    """An empty dictionary of hooks, which every pickled tensor has."""


class _Shape(tuple[int, ...]):
    """Of an example input; its data is not in the file."""

    __slots__ = ()


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and not isinstance(value, _Shape):
        return type(value)(_plain(item) for item in value)
    if value is None or isinstance(value, (bool, int, float, str, Weight, Tensor, _Shape, dict, Instance)):
        return value
    raise Refused("It is damaged: copy or download it again.")


def _listed(kind: ast.ClassDef, name: str) -> set[str]:
    for part in kind.body:
        if isinstance(part, ast.Assign) and isinstance(part.targets[0], ast.Name) and part.targets[0].id == name:
            items = part.value.elts if isinstance(part.value, ast.List) else []
            return {item.value for item in items if isinstance(item, ast.Constant) and isinstance(item.value, str)}
    return set()


def _traced(inputs: Any) -> tuple[int | None, ...]:
    """The shape that a program was traced with; size and channels are then known."""
    shapes = inputs.get("forward") if isinstance(inputs, dict) else None
    if isinstance(shapes, list) and len(shapes) == 1 and isinstance(shapes[0], _Shape):
        shape = shapes[0]
        if len(shape) == 4 and all(type(size) is int and 0 < size <= 4096 for size in shape):
            return tuple(shape)
    return (None, None, None, None)


# torch.export

_SCALARS: Final = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
_FORMATS: Final = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    4: torch.preserve_format,
}


def _payload(archive: _Archive, folder: str, config: Any) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, entry in config.items():
        meta = entry["tensor_meta"]
        if entry["use_pickle"] or meta is None:
            raise Refused("It holds pickled Python objects, which are not rebuilt: export plain tensors.")
        sizes, strides = ([size["as_int"] for size in meta[key]] for key in ("sizes", "strides"))
        data = archive.read(f"{folder}/{entry['path_name']}")
        tensors[name] = _tensor(data, _SCALARS[meta["dtype"]], sizes, strides, meta["storage_offset"]["as_int"])
    return tensors


def _pickled(archive: _Archive, name: str) -> dict[str, Tensor]:
    """A state dict in a torch file inside, as older versions wrote it."""
    data = archive.read(name)
    if not data:
        return {}
    with zipfile.ZipFile(io.BytesIO(data)) as inner:
        members = inner.infolist()
    if any(member.compress_type for member in members) or sum(member.file_size for member in members) > len(data):
        raise Refused("It is a zip archive that torch did not write.")
    try:
        tensors = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise Refused("It holds pickled Python objects, which are not rebuilt: export plain tensors.") from error
    if not isinstance(tensors, dict) or any(
        type(tensor) not in (Tensor, torch.nn.Parameter) for tensor in tensors.values()
    ):
        raise Refused("It holds pickled Python objects, which are not rebuilt: export plain tensors.")
    return {str(key): tensor.detach() for key, tensor in tensors.items()}


def _graph(program: Any, stored: Mapping[str, Tensor]) -> Program:
    version = program["schema_version"]["major"]
    if version not in (5, 6, 7, 8):
        raise Refused(f"It has version {version!r} of the format, which is not known here: export it with torch 2.10.")
    graph, signature = program["graph_module"]["graph"], program["graph_module"]["signature"]
    inputs: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    trained: list[str] = []
    example: tuple[int | None, ...] | None = None
    for spec in signature["input_specs"]:
        kind, body = _only(spec)
        if kind in ("parameter", "buffer", "tensor_constant"):
            name = body[f"{kind}_name"]
            if name not in stored:
                raise Refused(f"Its tensor {name[:80]!r} is missing.")
            tensors[name] = stored[name]
            inputs[body["arg"]["name"]] = Weight(name)
            if kind == "parameter":
                trained.append(name)
        elif kind == "user_input" and "as_tensor" in body["arg"] and example is None:
            name = body["arg"]["as_tensor"]["name"]
            inputs[name] = Ref("")
            example = _sizes(graph["tensor_values"][name]["sizes"])
        elif kind == "constant_input":
            inputs[body["name"]] = _only(body["value"])[1] if "as_none" not in body["value"] else None
        elif kind == "custom_obj":
            raise Refused("It holds pickled Python objects, which are not rebuilt: export plain tensors.")
        else:
            raise Refused("It takes more than one input: export a module that takes images alone.")
    if example is None:
        raise Refused("It takes no input: export a module that takes images.")
    outputs = [_only(spec) for spec in signature["output_specs"]]
    if any(kind in ("buffer_mutation", "parameter_mutation") for kind, _ in outputs):
        raise Refused("It changes its own weights: export it after model.eval().")
    if [kind for kind, _ in outputs] != ["user_output"]:
        raise Refused(
            f"It gives {len(outputs)} outputs, not one tensor of logits: export a module that gives logits alone."
        )
    nodes = tuple(_node(node) for node in graph["nodes"])
    return Program(Graph(inputs, nodes, _argument(outputs[0][1]["arg"])), tensors, trained, example)


def _only(union: Any) -> tuple[str, Any]:
    """The one field of a union; older versions write the others too, as null."""
    fields = [(key, value) for key, value in union.items() if value is not None]
    ((key, value),) = fields
    return key, value


def _sizes(sizes: Any) -> tuple[int | None, ...]:
    """Fixed numbers; an open batch is None, other open sizes are as in the example."""
    found: list[int | None] = []
    for index, size in enumerate(sizes):
        number = size.get("as_int")
        if number is None and index:
            number = ((size["as_expr"] or {}).get("hint") or {}).get("as_int")
        if number is not None and not (type(number) is int and 0 < number <= 4096):
            raise Refused("It was made for images of an impossible size.")
        found.append(number)
    return tuple(found)


def _node(node: Any) -> Node:
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    named = node["target"].startswith("torch.ops.aten.")
    for given in node["inputs"]:
        value = _argument(given["arg"])
        if named and given.get("kind") != 1:  # older versions do not say
            kwargs[given["name"]] = value
        else:
            args.append(value)
    outputs = [_only(output) for output in node["outputs"]]
    if len(outputs) == 1 and outputs[0][0] == "as_tensors":
        return Node(node["target"], tuple(args), kwargs, tuple(item["name"] for item in outputs[0][1]), False)
    names = tuple(body.get("name") or body.get("as_name") or "" for kind, body in outputs if isinstance(body, dict))
    return Node(node["target"], tuple(args), kwargs, names or ("",), len(names) <= 1)


def _argument(argument: Any) -> Any:
    kind, value = _only(argument)
    match kind:
        case "as_none":
            return None
        case "as_tensor":
            return Ref(value["name"])
        case "as_tensors":
            return [Ref(item["name"]) for item in value]
        case "as_optional_tensor":
            return _argument(value)
        case "as_optional_tensors":
            return [_argument(item) for item in value]
        case "as_sym_int" | "as_sym_bool" | "as_sym_float" | "as_name":
            return Ref(value) if kind == "as_name" else _argument(value)
        case "as_sym_ints" | "as_sym_bools" | "as_sym_floats":
            return [_argument(item) for item in value]
        case "as_int" | "as_bool" | "as_string" if isinstance(value, (int, str)):
            return value
        case "as_float":
            return float(value)
        case "as_ints" | "as_bools" | "as_strings" if isinstance(value, list):
            return [item for item in value if isinstance(item, (int, str))]
        case "as_floats":
            return [float(item) for item in value]
        case "as_scalar_type":
            return _SCALARS[value]
        case "as_memory_format":
            return _FORMATS[value]
        case "as_layout" if value == 7:
            return torch.strided
        case "as_device":
            return Place()
    raise Refused(f"Its program has an argument of the kind {kind[:40]!r}, which is not known here.")
