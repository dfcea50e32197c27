"""TorchScript files and torch.export programs, read without the loaders of these formats.

`torch.jit.load` runs methods of the file while it reads, and `torch.export.load` evaluates expressions and pickles in
it. Here the code of the one is parsed, the graph of the other is read as JSON, pickles go through the reader of
stand-ins, tensors are taken from their bytes, and `cem_core.models` walks what came out. Nothing is extracted, imported
or evaluated.
"""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from collections.abc import Collection, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import torch
from torch import Tensor

from cem_core.checkpoints import stand_ins, torch_files
from cem_core.checkpoints.stand_ins import DAMAGED, Reader, Storage, Unreadable
from cem_core.checkpoints.watching import Cancelled, Watch, Watched
from cem_core.messages import Refused
from cem_core.models.exported import Graph, Node, Place, Ref
from cem_core.models.program import Misfit, Program, Weight
from cem_core.models.torchscript import Instance, Script

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST_CODE: Final = 8 * 2**20
_MOST_PICKLE: Final = 16 * 2**20
_MOST_JSON: Final = 32 * 2**20
_MOST_PARTS: Final = 40_000
"""In an archive inside."""
_ROOM: Final = 128 * 2**20
"""Bytes that the syntax tree of all code may take, or the objects of all JSON: five times DenseNet-201's."""
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


def read_torchscript(path: Path, watch: Watch | None = None) -> Program:
    """The program in a TorchScript file. Raises Refused if it cannot be used, or not safely; and what `watch` does."""
    with _opened(path, watch) as archive:
        classes: dict[str, ast.ClassDef] = {}
        functions: dict[str, ast.FunctionDef] = {}
        room = _MOST_CODE
        for name in archive.names("code/", ".py"):
            text = archive.read(f"code/{name}.py", room)
            room -= len(text)
            for part in _parsed(text, archive):
                qualified = f"{name.replace('/', '.')}.{getattr(part, 'name', '')}"
                if isinstance(part, ast.ClassDef):
                    classes[qualified] = part
                elif isinstance(part, ast.FunctionDef):
                    functions[qualified] = part
                else:
                    raise Refused("Its code has something else than modules and functions.")
        tensors: dict[str, Tensor] = {}
        root = _Objects(archive, "data", classes, tensors).load()
        constants = _Objects(archive, "constants", classes, tensors).load()
        if not isinstance(root, Instance) or not isinstance(constants, tuple):
            raise Refused("It holds something else than a module.")
        example: tuple[int | None, ...] = (None, None, None, None)
        if archive.has("traced_inputs.pkl"):
            example = _traced(_Objects(archive, "traced_inputs", classes, {}).load())
        script = Script(root, classes, functions, constants)
        return archive.program(script, tensors, _trained(root, classes), example)


def read_export(path: Path, watch: Watch | None = None) -> Program:
    """The program in a file of torch.export.save. Raises as `read_torchscript`."""
    with _opened(path, watch) as archive:
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
        return archive.program(*_graph(program, stored))


# Archives

_READ: Final = 0.5
"""The share of reading in the work; the rest is trying the program."""


class _Archive:
    """A zip whose members are read into memory, whole and only up to a limit."""

    def __init__(self, file: BinaryIO, size: int, watch: Watch | None) -> None:
        self._file = file
        self._size = size
        self._watch = watch
        self._zip = zipfile.ZipFile(file)
        self._members = {member.filename: member for member in self._zip.infolist()}
        first = next(iter(self._members))
        self.root = f"{first.split('/')[0]}/" if "/" in first and _OLD_EXPORT not in self._members else ""
        self.storages = torch_files.Storages(size, shapes=False)
        self._room = _ROOM

    def has(self, name: str) -> bool:
        return self.root + name in self._members

    def names(self, folder: str, suffix: str) -> list[str]:
        start = self.root + folder
        found = [name for name in self._members if name.startswith(start) and name.endswith(suffix)]
        return [name[len(start) : len(name) - len(suffix)] for name in found]

    def read(self, name: str, limit: int | None = None) -> bytes:
        member = self._members[self.root + name]
        limit = self._size if limit is None else limit
        if member.compress_type == zipfile.ZIP_STORED:
            count = torch_files.go_to(member, self._file, self._size)
            data = self._file.read(min(count, limit + 1))
        elif may_be_compressed(member.filename):
            with self._zip.open(member) as part:
                data = part.read(min(limit, member.file_size) + 1)
        else:
            raise Refused("It is a zip archive that torch did not write.")
        if len(data) > limit:
            raise Refused(f"Its part {name[:60]} is too large.")
        if len(data) != member.file_size:
            raise Unreadable(DAMAGED)
        return data

    def storage(self, name: str, dtype: torch.dtype, count: int | None = None) -> Storage:
        """The numbers in a member, each member once."""
        member = self._members[self.root + name]
        known = name in self.storages.found
        storage = self.storages.add(name, dtype, member.file_size // dtype.itemsize if count is None else count)
        if not known:
            if torch_files.go_to(member, self._file, self._size) != storage.data.nbytes():
                raise Unreadable(DAMAGED)
            torch_files.fill(storage.data, self._file)
        return storage

    def json(self, name: str) -> Any:
        data = self.read(name, _MOST_JSON)
        self.pay(230 * data.count(b"{") + 90 * data.count(b"[") + 70 * (data.count(b",") + data.count(b":")))
        return json.loads(data)

    def pay(self, count: int) -> None:
        """For what comes of text: bytes of memory, about."""
        self._room -= count
        if self._room < 0:
            raise Refused("Its program is longer than any model's: save its state dict instead.")

    def program(
        self,
        body: Script | Graph,
        tensors: dict[str, Tensor],
        trained: Collection[str],
        example: tuple[int | None, ...],
    ) -> Program:
        distinct = {id(tensor): tensor.numel() * tensor.element_size() for tensor in tensors.values()}
        if sum(distinct.values()) > 2 * self._size:
            raise Refused("It has tensors that share their numbers: save its state dict instead.")
        watch = self._watch
        return Program(body, tensors, trained, example, watch and (lambda share: watch(_READ + (1 - _READ) * share)))


@contextmanager
def _opened(path: Path, watch: Watch | None) -> Iterator[_Archive]:
    """Whatever a file makes fail becomes one sentence that begins with its name."""
    try:
        with Watched(path, watch and (lambda share: watch(_READ * share))) as raw:
            yield _Archive(io.BufferedReader(raw), raw.size, watch)
    except Refused as error:
        text = str(error)
        raise Refused(f"{path.name} cannot be used: {text[0].lower()}{text[1:]}") from error
    except Misfit as error:
        raise Refused(f"{path.name} cannot be used: its program fails ({error}).") from error
    except Unreadable as error:
        raise Refused(f"{path.name} {error}") from error
    except MemoryError as error:
        raise Refused(f"{path.name} needs more memory than there is.") from error
    except (Cancelled, OSError):
        raise
    except Exception as error:  # a damaged or hostile file makes zipfile, json, ast and torch raise nearly anything
        raise Refused(f"{path.name} is damaged or was saved in a way that is not known here: save it again.") from error


def _tensor(storage: Storage, offset: Any, sizes: Any, strides: Any) -> Tensor:
    tensor = stand_ins.tensor(storage, offset, sizes, strides)
    if tensor.is_meta:
        raise Refused("It has a tensor that is larger than its data.")
    return tensor


# TorchScript


def _parsed(text: bytes, archive: _Archive) -> list[ast.stmt]:
    depth = 0
    for sign in re.finditer(rb"[()\[\]{}]", text):
        depth += 1 if sign[0] in b"([{" else -1
        if depth > _DEEPEST:
            raise Refused("Its code is nested too deeply.")
    for _ in re.finditer(rb"\w+|\n|[^\w\s.,:()]", text):
        archive.pay(900)
    return ast.parse(text.decode()).body


@dataclass(frozen=True)
class _Kind:
    """A class of the file."""

    name: str


class _Shape(tuple[int, ...]):
    """Of an example input; its data is not in the file."""

    __slots__ = ()


class _Objects(Reader):
    """Reads a pickle of a TorchScript file: modules become Instances, their tensors Weights."""

    def __init__(
        self, archive: _Archive, name: str, classes: Mapping[str, ast.ClassDef], tensors: dict[str, Tensor]
    ) -> None:
        super().__init__(io.BytesIO(archive.read(f"{name}.pkl", _MOST_PICKLE)), persistent=self._storage)
        if archive.has("byteorder") and archive.read("byteorder", 16) != b"little":
            raise Refused("It was written by a machine of the other byte order: save its state dict there.")
        self._archive = archive
        self._folder = name
        self._classes = classes
        self._tensors = tensors
        self._weights: dict[Any, Weight] = {}

    def load(self) -> Any:
        return self._plain(super().load())

    def _storage(self, key: tuple[Any, ...]) -> Storage:
        what, dtype, name, _, count = key
        if what != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(name, str):
            raise Unreadable(DAMAGED)
        if self._folder == "traced_inputs":
            return Storage(torch.empty(count, dtype=dtype, device="meta").untyped_storage(), dtype)
        return self._archive.storage(f"{self._folder}/{name}", dtype, count)

    def _named(self, module: str, name: str) -> Any:
        qualified = f"{module}.{name}"
        if (kind := self._classes.get(qualified)) is not None:
            bases = [base.id for base in kind.bases if isinstance(base, ast.Name)]
            methods = {part.name for part in kind.body if isinstance(part, ast.FunctionDef)}
            if bases != ["Module"] or "__setstate__" in methods:
                raise Refused("It holds objects that run code when they are read: save its state dict instead.")
            return _Kind(qualified)
        if qualified in ("collections.OrderedDict", "torch._utils._rebuild_tensor_v2"):
            return super()._named(module, name)
        if qualified in _SAME:
            return _same
        if "qtensor" in name or "quantized" in qualified:
            raise Refused("It is quantised, and cannot be differentiated: save it before it is quantised.")
        if isinstance(found := super()._named(module, name), torch.dtype):  # of a storage
            return found
        raise Refused(f"It holds an object of the class {qualified[:80]!r}, which is not rebuilt.")

    def _called(self, function: Any, args: Any) -> Any:
        if isinstance(function, _Kind):
            return Instance(function.name)
        made = super()._called(function, args)
        return self._weight(made) if isinstance(made, Tensor) else made

    def _weight(self, tensor: Tensor) -> Any:
        """What stands for a tensor: the same for the same numbers."""
        if self._folder == "traced_inputs":
            return _Shape(tensor.shape)
        if tensor.is_meta:
            raise Refused("It has a tensor that is larger than its data.")
        if not tensor.ndim and not tensor.is_floating_point():
            return tensor.clone()  # a number, with which sizes are computed
        data = tensor.untyped_storage()._cdata
        same = (data, tensor.dtype, tensor.storage_offset(), tuple(tensor.shape), tensor.stride())
        if same not in self._weights:
            self._weights[same] = Weight(f"{self._folder}.{len(self._weights)}")
            self._tensors[self._weights[same].name] = tensor
        return self._weights[same]

    def _fill(self, made: Any, state: Any) -> None:
        if not isinstance(state, dict) or not isinstance(made, Instance):
            raise Unreadable(DAMAGED)
        made.attributes.update({str(key): self._plain(value) for key, value in state.items()})

    def _plain(self, value: Any, depth: int = 0) -> Any:
        """A copy in which no list stands twice, so that going through it takes no longer than this."""
        self._pay(100)
        if type(value) in (list, tuple) and depth < 10:
            return type(value)(self._plain(item, depth + 1) for item in value)
        if type(value) is dict and depth < 10:
            return {key: self._plain(item, depth + 1) for key, item in value.items() if isinstance(key, str)}
        if value is None or isinstance(value, (bool, int, float, str, Weight, Tensor, _Shape, Instance)):
            return value
        raise Unreadable(DAMAGED)


def _same(value: Any = None, *_: Any) -> Any:
    return value


_SAME: Final = {
    "torch.jit._pickle.restore_type_tag",
    *(f"torch.jit._pickle.build_{kind}list" for kind in ("int", "double", "bool", "tensor")),
}


def _trained(root: Instance, classes: Mapping[str, ast.ClassDef]) -> set[str]:
    """The weights that classes list as parameters."""
    found: set[str] = set()
    waiting, seen = [root], {id(root)}
    while waiting:
        owner = waiting.pop()
        listed = _listed(classes[owner.kind], "__parameters__")
        for name, value in owner.attributes.items():
            if isinstance(value, Weight) and name in listed:
                found.add(value.name)
            elif isinstance(value, Instance) and id(value) not in seen:
                seen.add(id(value))
                waiting.append(value)
    return found


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
    known: dict[Any, Tensor] = {}
    for name, entry in config.items():
        meta = entry["tensor_meta"]
        if entry["use_pickle"] or meta is None:
            raise Refused("It holds pickled Python objects, which are not rebuilt: export plain tensors.")
        sizes, strides = ([size["as_int"] for size in meta[key]] for key in ("sizes", "strides"))
        storage = archive.storage(f"{folder}/{entry['path_name']}", torch.uint8)
        dtype, offset = _SCALARS[meta["dtype"]], meta["storage_offset"]["as_int"]
        same = (entry["path_name"], dtype, offset, *sizes, *strides)
        if same not in known:
            known[same] = _tensor(Storage(storage.data, dtype), offset, sizes, strides)
        tensors[name] = known[same]
    return tensors


def _pickled(archive: _Archive, name: str) -> dict[str, Tensor]:
    """A state dict in a torch file inside, as older versions wrote it."""
    data = archive.read(name)
    if not data:
        return {}
    if data.count(b"PK\1\2") > _MOST_PARTS:
        raise Refused("It is a zip archive that torch did not write.")
    names: set[str] = set()
    tensors = torch_files.read_zip(io.BytesIO(data), len(data), names, shapes=False)
    whole = isinstance(tensors, dict) and all(isinstance(value, Tensor) for value in tensors.values())
    if names or not whole or any(tensor.is_meta for tensor in tensors.values()):
        raise Refused("It holds pickled Python objects, which are not rebuilt: export plain tensors.")
    return {str(key): tensor for key, tensor in tensors.items()}


def _graph(
    program: Any, stored: Mapping[str, Tensor]
) -> tuple[Graph, dict[str, Tensor], list[str], tuple[int | None, ...]]:
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
    return Graph(inputs, nodes, _argument(outputs[0][1]["arg"])), tensors, trained, example


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
