"""TorchScript and torch.export programs: as their eager networks, and never more than tensor operations."""

from __future__ import annotations

import io
import json
import pickle
import random
import sys
import threading
import warnings
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere
from torch import Tensor, nn

from cem_core.checkpoints import Cancelled, programs
from cem_core.messages import Refused
from cem_core.models.model import Model, Normalisation
from cem_core.models.preact_resnet import PreActResNet
from cem_core.models.program import Program
from cem_core.models.torchvision_nets import import_torchvision


class Small(nn.Module):
    """Every trap of one's own code: a view, in-place activations, dropout, a size that is computed."""

    def __init__(self, channels: int = 3, size: int = 32) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 6, 3, 2, 1)
        self.norm = nn.BatchNorm2d(6)
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(6 * (size // 8) ** 2, 7)

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.norm(self.conv(x)))
        h = F.avg_pool2d(h, 4)
        return self.fc(self.drop(h.view(h.size(0), -1)))  # type: ignore[no-any-return]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.layer = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).flatten(2).transpose(1, 2)
        h = torch.cat((self.token.expand(h.shape[0], -1, -1), h), dim=1)
        h = h + self.layer(h, h, h, need_weights=False)[0]
        return self.head(self.norm(h)[:, 0])  # type: ignore[no-any-return]


def preact() -> nn.Module:
    """Of this project, without what TorchScript cannot compile."""
    net = PreActResNet((1, 1, 1, 1), 2, 3, 10, "silu", bottleneck=False, shortcut_activated=True, final_bn=True)
    parts: Any = net
    stages = (parts.layer1, parts.layer2, parts.layer3, parts.layer4)
    return nn.Sequential(parts.conv1, *stages, parts.bn, parts.act, Mean(), parts.head)


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def resnet18() -> nn.Module:
    try:
        torchvision = import_torchvision()
    except Refused as error:
        pytest.skip(str(error))
    return torchvision.models.resnet18(num_classes=10)  # type: ignore[no-any-return]


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = build().eval()
        with torch.no_grad():
            for part in net.modules():
                if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None:
                    part.running_mean.normal_(0, 0.2)
                    part.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return net


def images(count: int, net_size: int = 32, channels: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(count, channels, net_size, net_size, generator=torch.Generator().manual_seed(seed))


def quiet(make: Callable[[], Any]) -> Any:
    """torch deprecates its own makers of programs; the reading of them must make no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def traced(net: nn.Module, path: Path, x: Tensor | None = None) -> Path:
    x = images(2) if x is None else x
    quiet(lambda: torch.jit.trace(net, x, check_trace=False).save(path))
    return path


def scripted(net: nn.Module, path: Path) -> Path:
    quiet(lambda: torch.jit.script(net).save(path))
    return path


def exported(
    net: nn.Module, path: Path, x: Tensor | None = None, *, free: bool = True, decomposed: bool = False
) -> Path:
    x = images(2) if x is None else x
    shapes = ({0: torch.export.Dim("batch", min=1, max=1024)},) if free else None

    def make() -> None:
        program = torch.export.export(net, (x,), dynamic_shapes=shapes)
        torch.export.save(program.run_decompositions() if decomposed else program, path)

    quiet(make)
    return path


MAKERS: Mapping[str, Callable[[nn.Module, Path], Path]] = {
    "traced.pt": traced,
    "scripted.pt": scripted,
    "frozen.pt": lambda net, path: _frozen(net, path),
    "free.pt2": exported,
    "fixed.pt2": lambda net, path: exported(net, path, images(2), free=False),
    "one.pt2": lambda net, path: exported(net, path, images(1), free=False),
    "decomposed.pt2": lambda net, path: exported(net, path, decomposed=True),
}


def _frozen(net: nn.Module, path: Path) -> Path:
    quiet(lambda: torch.jit.freeze(torch.jit.script(net)).save(path))
    return path


def read(path: Path) -> Program:
    names = zipfile.ZipFile(path).namelist()
    assert programs.is_torchscript(names) != programs.is_export(names)
    return programs.read_torchscript(path) if programs.is_torchscript(names) else programs.read_export(path)


def refusal(path: Path) -> str:
    with pytest.raises(Refused) as caught:
        read(path)
    text = str(caught.value)
    assert text.startswith(path.name), text
    assert text.endswith("."), text
    return text


def rewritten(path: Path, changes: Mapping[str, bytes | Callable[[bytes], bytes]]) -> Path:
    """The same archive with some members changed or added; names without the root."""
    with zipfile.ZipFile(path) as old:
        members = {info.filename: old.read(info) for info in old.infolist()}
    root = next(iter(members)).split("/")[0]
    for name, change in changes.items():
        key = f"{root}/{name}"
        members[key] = change(members[key]) if callable(change) else change
    made = path.with_name(f"changed_{path.name}")
    with zipfile.ZipFile(made, "w") as new:
        for name, data in members.items():
            new.writestr(name, data)
    return made


def changed_graph(path: Path, change: Callable[[Any], None]) -> Path:
    def edit(data: bytes) -> bytes:
        tree = json.loads(data)
        change(tree)
        return json.dumps(tree).encode()

    return rewritten(path, {"models/model.json": edit})


@pytest.mark.parametrize("form", MAKERS)
@pytest.mark.parametrize(
    "build", [Small, preact, Attention, resnet18], ids=["small", "preact", "attention", "resnet18"]
)
def test_is_the_eager_network(form: str, build: Callable[[], nn.Module], tmp_path: Path) -> None:
    if (form, build) == ("decomposed.pt2", resnet18):
        pytest.skip("the same operations as the others")
    net = seeded(build)
    program = read(MAKERS[form](net, tmp_path / form)).requires_grad_(False)
    assert program.channels == 3
    assert program.size == 32 or 32 in program.sizes
    for count in (1, 2, 5):
        x, y = images(count).requires_grad_(), images(count).requires_grad_()
        if program.batch:
            parts = [y[i : i + program.batch] for i in range(0, count, program.batch)]
            want = torch.cat([net(part) for part in parts])
        else:
            want = net(y)
        got = program(x)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
        if form not in ("frozen.pt", "decomposed.pt2") and build is not Attention and count == 2:
            assert torch.equal(got, want)
        weight = torch.randn(want.shape[1], generator=torch.Generator().manual_seed(1))
        (a,) = torch.autograd.grad((got * weight).sum(), x)
        (b,) = torch.autograd.grad((want * weight).sum(), y)
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert program.outputs == want.shape[1]
    assert torch.equal(program(images(2)), program.features(images(2)))


def test_fixed_batches_are_split_and_filled_up(tmp_path: Path) -> None:
    program = read(exported(seeded(Small), tmp_path / "four.pt2", images(4), free=False))
    assert program.batch == 4
    one_by_one = torch.cat([program(x[None]) for x in images(6)])
    torch.testing.assert_close(program(images(6)), one_by_one)


@pytest.mark.parametrize("form", ["traced.pt", "scripted.pt", "free.pt2"])
def test_works_inside_a_model(form: str, tmp_path: Path) -> None:
    net = seeded(Small)
    normalisation = Normalisation((0.5,) * 3, (0.25,) * 3)
    model = Model(read(MAKERS[form](net, tmp_path / form)), normalisation).frozen(torch.device("cpu"), torch.float32)
    x = images(3).sigmoid()
    torch.testing.assert_close(model(x), net((x - 0.5) / 0.25), rtol=1e-4, atol=1e-5)
    half = model.frozen(torch.device("cpu"), torch.bfloat16)
    torch.testing.assert_close(half(x), net((x - 0.5) / 0.25), rtol=0.1, atol=0.1)


def test_goes_on_in_another_thread(tmp_path: Path) -> None:
    program = read(scripted(seeded(Small), tmp_path / "net.pt"))
    found: list[Tensor] = []

    def work() -> None:
        x = images(2).requires_grad_()
        found.extend(torch.autograd.grad(program(x).sum(), x))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    x = images(2).requires_grad_()
    assert torch.equal(found[0], *torch.autograd.grad(program(x).sum(), x))


def test_knows_its_input(tmp_path: Path) -> None:
    grey = read(scripted(seeded(lambda: Small(1, 64)), tmp_path / "grey.pt"))
    assert (grey.channels, grey.size, grey.outputs, grey.batch) == (1, 64, 7, None)
    anything = read(scripted(seeded(preact), tmp_path / "any.pt"))
    assert anything.size is None
    assert {28, 32, 64} <= set(anything.sizes)
    odd = read(traced(seeded(lambda: Small(3, 48)), tmp_path / "odd.pt", images(2, 48)))
    assert odd.size == 48


def test_a_scripted_network_is_put_into_eval_mode(tmp_path: Path) -> None:
    net = seeded(Small)
    program = read(scripted(net.train(), tmp_path / "net.pt"))
    assert torch.equal(program(images(2)), net.eval()(images(2)))


def test_leaves_its_input_alone(tmp_path: Path) -> None:
    program = read(traced(nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(3072, 4)), tmp_path / "net.pt"))
    x = images(2)
    program(x)
    assert torch.equal(x, images(2))


def test_torch_writes_no_compressed_members_but_code(tmp_path: Path) -> None:
    for form in ("traced.pt", "scripted.pt", "frozen.pt", "free.pt2"):
        with zipfile.ZipFile(MAKERS[form](seeded(Small), tmp_path / form)) as file:
            for info in file.infolist():
                assert info.compress_type == zipfile.ZIP_STORED or programs.may_be_compressed(info.filename)


# What is no classifier


class Wrong(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.fc = nn.Linear(3072, 4)
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x: Tensor) -> Any:
        y = self.fc(x.flatten(1))
        if self.how == "tuple":
            return y, y
        if self.how == "dictionary":
            return {"logits": y}
        if self.how == "map":
            return x * 2
        if self.how == "labels":
            return y.argmax(1)
        if self.how == "detached":
            return y.detach()
        if self.how == "together":
            return y - y.mean(0)
        if self.how == "counting":
            self.seen.add_(1)
            return y + self.seen
        return F.dropout(y, 0.5, True)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("tuple", "gives a tuple"),
        ("dictionary", "gives a dictionary"),
        ("map", "not logits"),
        ("labels", "not logits"),
        ("detached", "cannot be differentiated"),
        ("together", "influence each other"),
        ("counting", "its own weights"),
        ("chance", "something else each time"),
    ],
)
def test_refuses_what_is_no_classifier(how: str, said: str, tmp_path: Path) -> None:
    net = seeded(lambda: Wrong(how))
    file = quiet(lambda: torch.jit.trace(net, images(2), check_trace=False, strict=False))
    quiet(lambda: file.save(tmp_path / "net.pt"))
    text = refusal(tmp_path / "net.pt")
    assert said in text or (how == "counting" and "something else each time" in text)
    if how == "tuple":
        assert "2 outputs" in refusal(exported(net, tmp_path / "net.pt2"))
    elif how not in ("chance", "dictionary"):  # one tensor in a dictionary is exported like one alone
        assert said in refusal(exported(net, tmp_path / "net.pt2"))


def test_refuses_a_network_traced_in_training_mode(tmp_path: Path) -> None:
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3072, 4)).train()
    assert "after model.eval()" in refusal(traced(net, tmp_path / "net.pt"))
    assert "after model.eval()" in refusal(exported(net, tmp_path / "net.pt2"))


class TwoInputs(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x.flatten(1) + y.flatten(1)


def test_refuses_two_inputs(tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    quiet(lambda: torch.export.save(torch.export.export(TwoInputs(), (images(2), images(2))), path))
    assert "more than one input" in refusal(path)
    quiet(lambda: torch.jit.trace(TwoInputs(), (images(2), images(2))).save(tmp_path / "net.pt"))
    refusal(tmp_path / "net.pt")


def test_refuses_what_is_not_square(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 16, 4))
    assert "16×8 pixels" in refusal(traced(net, tmp_path / "net.pt", torch.zeros(2, 3, 8, 16)))


# Hostile files. Where it is feasible, the careless call shows that the file does bite.


class Reaching(nn.Module):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.fc = nn.Linear(3072, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1)) + torch.from_file(self.path, True, 4)


def test_operations_that_reach_files_are_refused(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    path = scripted(Reaching(str(mark)), tmp_path / "net.pt")
    assert "'from_file'" in refusal(path)
    assert not mark.exists()
    quiet(lambda: torch.jit.load(path)(images(1)))
    assert mark.exists()


class Waking(nn.Module):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.data = torch.zeros(4)

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path = state[0]
        self.training = state[1]
        self.data = torch.from_file(self.path, True, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def test_methods_that_run_at_loading_are_refused(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    path = scripted(Waking(str(mark)), tmp_path / "net.pt")
    assert "run code when they are read" in refusal(path)
    assert not mark.exists()
    quiet(lambda: torch.jit.load(path))
    assert mark.exists()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("while True:\n      pass", "without a known end"),
        ("for i in range(1000000000000):\n      pass", "steps"),
        ("y = torch.zeros([1000000, 1000000])", "memory"),
        ("for i in range(100):\n      y = torch.zeros([10000, 10000])", "memory"),
        ("y = torch.sum(torch.expand(torch.zeros([1]), [100000000000000]))", "too long"),
        ("y = torch.repeat(ops.prim.NumToTensor(1), [1000000, 1000000])", "memory"),
        ("y = torch.sum(torch.expand(ops.prim.NumToTensor(1), [100000000000000]))", "too long"),
        ("y = [1]\n    for i in range(60):\n      y = torch.add(y, y)", "lists that are too long"),
        ("y = [1]\n    for i in range(60):\n      y = torch.mul(y, 9)", "number is missing"),
        ("y = 2\n    for i in range(60):\n      y = torch.mul(y, y)", "numbers that are too long"),
        ("y = torch.pow(9, 900000000)", "numbers that are too long"),
        ("y = 'a'\n    for i in range(60):\n      y = torch.add(y, y)", "number is missing"),
        ("if bool(torch.gt(torch.sum(x), 0)):\n      y = 1\n    else:\n      y = 2", "by the pixels"),
        ("y = torch.nonzero(x)", "'nonzero'"),
        ("y = torch.where(torch.gt(x, 0))", "no image"),
        ("y = torch.index(x, [torch.gt(x, 0)])", "no image"),
        ("y = (self).forward(x, )", "again and again"),
        ("y = torch.rand([3])", "'rand'"),
    ],
)
def test_endless_and_boundless_programs_are_refused(body: str, said: str, tmp_path: Path) -> None:
    assert said in refusal(flatten_with(body, tmp_path))


def flatten_with(body: str, folder: Path) -> Path:
    """A TorchScript file that runs these lines before it flattens images."""
    path = traced(nn.Flatten(), folder / "net.pt")
    code = (
        "class Flatten(Module):\n  __parameters__ = []\n  __buffers__ = []\n"
        f"  def forward(self: __torch__.x,\n    x: Tensor) -> Tensor:\n    {body}\n    return torch.flatten(x, 1)\n"
    )
    return rewritten(path, {code_of(path, ".py"): code.encode()})


def code_of(path: Path, name: str) -> str:
    with zipfile.ZipFile(path) as file:
        (member,) = (info for info in file.namelist() if info.endswith(name) and "debug" not in info)
        return member.split("/", 1)[1]


@pytest.mark.parametrize(
    "line",
    [
        'ops.mine.run("touch mark")',
        "ops.prim.PythonOp(x)",
        "__import__('os').system('touch mark')",
        "torch.ops.aten.relu(x)",
        "torch.__class__(x)",
        "torch.save(x, 'mark')",
        "(lambda: open('mark', 'w'))()",
        "[open('mark', 'w') for _ in x]",
        "(x).__class__.__mro__",
        "(self).__init__.__globals__",
        "getattr(self, '__class__')",
        "getattr(x, '__class__')",
        "torch.relu(CONSTANTS.c99)",
        "__torch__.os.system('touch mark')",
        "self.forward(x, )",
        "^Python(x)",
        "x[" * 150 + "0" + "]" * 150,
        "-" * 5000 + "x",
    ],
)
def test_code_is_never_python(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = flatten_with(f"y = {line}", tmp_path)
    before = set(tmp_path.iterdir())
    refusal(made)
    assert set(tmp_path.iterdir()) == before


class Touch:
    """Runs at unpickling."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", ["data.pkl", "constants.pkl", "traced_inputs.pkl"])
def test_pickles_of_torchscript_run_nothing(name: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    evil = pickle.dumps(Touch(mark), protocol=2)
    refusal(rewritten(traced(nn.Flatten(), tmp_path / "net.pt"), {name: evil}))
    assert not mark.exists()
    pickle.loads(evil)
    assert mark.exists()


def test_tensors_end_with_their_data(tmp_path: Path) -> None:
    """torch.jit.load checks no bounds: such a tensor would read the memory behind it."""
    path = traced(seeded(Small), tmp_path / "net.pt")
    made = rewritten(path, {"data.pkl": lambda data: data.replace(b"K\x06t(K\x01t", b"K\xf0t(K\x01t")})
    assert "damaged" in refusal(made)
    weights = "data/weights/model_weights_config.json"
    export = exported(seeded(Small), tmp_path / "net.pt2")
    for old, new in (
        (b'"as_int": 6}', b'"as_int": 600000}'),
        (b'"storage_offset": {"as_int": 0', b'"storage_offset": {"as_int": -1'),
    ):
        refusal(rewritten(export, {weights: lambda data, old=old, new=new: data.replace(old, new)}))  # type: ignore[misc]


def test_decomposed_batch_norm_does_not_read_beyond_its_statistics(tmp_path: Path) -> None:
    path = exported(seeded(Small), tmp_path / "net.pt2", decomposed=True)

    def cut(tree: Any) -> None:
        for node in tree["graph_module"]["graph"]["nodes"]:
            if "batch_norm" in node["target"]:
                node["inputs"][3]["arg"] = {"as_tensor": {"name": "p_fc_bias"}}  # seven numbers, not six

    assert "7" in refusal(changed_graph(path, cut))


def test_expressions_of_an_export_are_not_evaluated(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    evil = f"__import__('pathlib').Path({str(mark)!r}).touch() or 2"

    def change(tree: Any) -> None:
        graph = tree["graph_module"]["graph"]
        tree["guards_code"] = [evil]
        for size in graph["sym_int_values"].values():
            size["as_expr"]["expr_str"] = evil
        for meta in graph["tensor_values"].values():
            for size in meta["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = evil

    net = seeded(Small)
    path = changed_graph(exported(net, tmp_path / "net.pt2"), change)
    assert torch.equal(read(path)(images(3)), net(images(3)))
    assert not mark.exists()
    quiet(lambda: torch.export.load(path))
    assert mark.exists()


def test_pickles_of_an_export_run_nothing(tmp_path: Path) -> None:
    net = seeded(Small)
    path = exported(net, tmp_path / "net.pt2")
    mark = tmp_path / "mark"
    buffer = io.BytesIO()
    torch.save(Touch(mark), buffer)

    def pickled(data: bytes) -> bytes:
        tree = json.loads(data)
        tree["config"]["conv.weight"]["use_pickle"] = True
        return json.dumps(tree).encode()

    files = {
        "weights": {"data/weights/model_weights_config.json": pickled, "data/weights/weight_0": buffer.getvalue()},
        "constants": {
            "data/constants/model_constants_config.json": json.dumps(
                {
                    "config": {
                        "a": {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
                    }
                }
            ).encode(),
            "data/constants/opaque_obj_0": pickle.dumps(Touch(mark)),
        },
        "old weights": {"data/weights/model.pt": buffer.getvalue()},
    }
    for changes in files.values():
        made = rewritten(path, changes)
        assert "pickled Python objects" in refusal(made)
        assert not mark.exists()
    for what in ("weights", "constants"):
        with pytest.raises(Exception):  # noqa: B017, PT012 - whatever it says, it has run
            quiet(lambda what=what: torch.export.load(rewritten(path, files[what])))
            raise RuntimeError
        assert mark.exists()
        mark.unlink()
    made = rewritten(path, {"data/sample_inputs/model.pt": buffer.getvalue()})
    assert torch.equal(read(made)(images(2)), net(images(2)))
    assert not mark.exists()


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.relu.__class__",
        "torch.ops.aten.__class__.default",
        "torch.ops.mine.relu.default",
        "torch.ops.higher_order.cond",
        "_operator.attrgetter",
        "builtins.eval",
        "math.factorial",
        "#mine:torch.relu",
    ],
)
def test_targets_of_an_export_are_from_the_list(target: str, tmp_path: Path) -> None:
    def change(tree: Any) -> None:
        for node in tree["graph_module"]["graph"]["nodes"]:
            if "relu" in node["target"]:
                node["target"] = target

    text = refusal(changed_graph(exported(seeded(Small), tmp_path / "net.pt2"), change))
    assert "operation" in text
    assert target.split(".")[-2].lstrip("#")[:4] in text or target.split(".")[-1] in text


def test_compiled_packages_are_refused(tmp_path: Path) -> None:
    path = exported(seeded(Small), tmp_path / "net.pt2")
    assert "machine code" in refusal(rewritten(path, {"data/aotinductor/model/wrapper.so": b"\x7fELF"}))
    assert "2 programs" in refusal(rewritten(path, {"models/other.json": b"{}"}))


def test_exports_of_older_versions(tmp_path: Path) -> None:
    net = seeded(Small)
    path = exported(net, tmp_path / "net.pt2")
    with zipfile.ZipFile(path) as new:
        graph = new.read("net/models/model.json")
    state, empty = io.BytesIO(), io.BytesIO()
    torch.save(net.state_dict(), state)
    torch.save({}, empty)
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as old:
        old.writestr("version", "5.1")
        old.writestr("serialized_exported_program.json", graph.replace(b', "kind": 1', b""))
        old.writestr("serialized_state_dict.pt", state.getvalue())
        old.writestr("serialized_constants.pt", empty.getvalue())
        old.writestr("serialized_example_inputs.pt", b"not looked at")
    assert torch.equal(read(tmp_path / "old.pt2")(images(2)), net(images(2)))


def test_bombs_are_not_unpacked(tmp_path: Path) -> None:
    path = traced(nn.Flatten(), tmp_path / "net.pt")
    name = code_of(path, ".py")
    made = rewritten(path, {name: b""})
    with zipfile.ZipFile(made, "a") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file.writestr(zipfile.ZipInfo(f"net/{name}"), b"#" * 2**25, compress_type=zipfile.ZIP_DEFLATED)
    assert "too large" in refusal(made)


@pytest.mark.parametrize("form", ["traced.pt", "scripted.pt", "free.pt2"])
def test_damaged_files_are_refused(form: str, tmp_path: Path) -> None:
    path = MAKERS[form](seeded(Small), tmp_path / form)
    data = path.read_bytes()
    chance = random.Random(7)
    with zipfile.ZipFile(path) as file:
        members = [info.filename.split("/", 1)[1] for info in file.infolist()]
    wanted = [name for name in members if name.endswith((".json", ".pkl", ".py"))]
    for _ in range(40):

        def spoil(content: bytes) -> bytes:
            if not content:
                return content
            at = chance.randrange(len(content))
            return content[:at] + bytes([chance.randrange(256)]) * chance.choice((0, 1, 3)) + content[at + 1 :]

        made = rewritten(path, {chance.choice(wanted): spoil})
        with suppress(Refused):
            read(made)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(Refused):
        programs.read_torchscript(path) if form.endswith(".pt") else programs.read_export(path)


def test_reading_needs_no_loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script, export = traced(seeded(Small), tmp_path / "a.pt"), exported(seeded(Small), tmp_path / "b.pt2")

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError

    for owner, name in (
        (torch.jit, "load"),
        (torch.export, "load"),
        (torch, "load"),
        (sys.modules["builtins"], "eval"),
    ):
        monkeypatch.setattr(owner, name, never)
    read(script)
    read(export)


@pytest.mark.parametrize("form", ["traced.pt", "scripted.pt", "free.pt2"])
def test_opening_can_be_watched_and_cancelled(form: str, tmp_path: Path) -> None:
    path = MAKERS[form](seeded(Small), tmp_path / form)
    read_file = programs.read_torchscript if form.endswith(".pt") else programs.read_export
    shares: list[float] = []
    assert read_file(path, shares.append)
    assert shares == sorted(shares)
    assert 0 <= shares[0] < shares[-1] <= 1
    for last in range(0, len(shares), max(1, len(shares) // 20)):
        told: list[float] = []

        def cancel(share: float, told: list[float] = told, last: int = last) -> None:
            told.append(share)
            if len(told) > last:
                raise Cancelled

        with pytest.raises(Cancelled):
            read_file(path, cancel)
        assert told == shares[: last + 1]
