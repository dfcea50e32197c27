"""A network that its file brings along as a program of tensor operations: TorchScript or torch.export.

The loaders of these formats run more than tensor operations, so neither is used: a program is walked here, and
whatever is not one of `OPERATORS` ends the walk. Each new shape of the input is first walked on the meta device, where
tensors have no data: what would take too much memory or time, or would decide by pixels what to do, is thus refused
before it begins.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, TypeAlias

import torch
from torch import Tensor, nn

from cem_core.messages import Refused
from cem_core.models.model import Network

_NAMES: Final = (
    # layers
    "_convolution convolution conv1d conv2d conv_transpose2d linear addmm mm bmm baddbmm matmul einsum mv dot "
    "batch_norm _native_batch_norm_legit_no_training _native_batch_norm_legit native_batch_norm layer_norm "
    "native_layer_norm group_norm native_group_norm instance_norm rms_norm _weight_norm _weight_norm_interface "
    "norm linalg_vector_norm frobenius_norm cosine_similarity scaled_dot_product_attention "
    "_scaled_dot_product_flash_attention_for_cpu dropout dropout_ feature_dropout feature_dropout_ alpha_dropout "
    "native_dropout embedding "
    # activations
    "relu relu_ relu6 relu6_ leaky_relu leaky_relu_ silu silu_ gelu gelu_ elu elu_ celu celu_ selu selu_ softplus "
    "sigmoid sigmoid_ tanh tanh_ hardtanh hardtanh_ hardswish hardswish_ hardsigmoid hardsigmoid_ mish mish_ prelu "
    "_prelu_kernel log_sigmoid softmax _softmax _safe_softmax log_softmax _log_softmax glu threshold threshold_ "
    "clamp clamp_ clamp_min clamp_min_ clamp_max clamp_max_ "
    # pooling and resampling
    "max_pool1d max_pool2d max_pool2d_with_indices avg_pool1d avg_pool2d adaptive_avg_pool1d adaptive_avg_pool2d "
    "_adaptive_avg_pool2d adaptive_max_pool2d upsample_nearest2d upsample_bilinear2d upsample_bicubic2d "
    "_upsample_bilinear2d_aa _upsample_bicubic2d_aa "
    # shapes
    "view reshape view_as reshape_as _unsafe_view flatten unflatten permute transpose t swapaxes swapdims movedim "
    "squeeze unsqueeze expand expand_as contiguous cat concat concatenate stack chunk split "
    "split_with_sizes unsafe_chunk unsafe_split unbind slice select narrow repeat repeat_interleave roll flip rot90 "
    "pad constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d index index_select "
    "gather take_along_dim pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle unfold im2col tril "
    "triu masked_fill masked_fill_ where broadcast_to broadcast_tensors meshgrid "
    # arithmetic
    "add add_ sub sub_ subtract rsub mul mul_ multiply div div_ divide true_divide floor_divide remainder fmod neg "
    "neg_ negative abs abs_ exp exp_ expm1 log log_ log1p log2 log10 pow pow_ square sqrt sqrt_ rsqrt reciprocal sin "
    "cos tan asin acos atan sinh cosh erf erfc sign floor ceil round trunc maximum minimum max min amax amin argmax "
    "argmin mean sum prod cumsum var std var_mean std_mean logsumexp addcmul addcdiv lerp eq ne lt le gt ge "
    "logical_and logical_or logical_not logical_xor bitwise_not bitwise_and bitwise_or any all isnan nan_to_num "
    # making and copying
    "zeros ones full zeros_like ones_like full_like new_zeros new_ones new_full arange linspace eye scalar_tensor "
    "lift_fresh lift_fresh_copy lift clone detach alias to _to_copy type_as float copy_ copy fill_ fill zero_ "
    "result_type"
)
OPERATORS: Final = frozenset(_NAMES.split())
"""Of the namespace aten: what image classifiers are made of. Nothing in it reaches beyond its tensors, leaves memory as
it found it, or is random in eval mode."""

_SILENT: Final = (
    "_assert_async",
    "_assert_scalar",
    "_assert_tensor_metadata",
    "sym_constrain_range",
    "sym_constrain_range_for_size",
    "warn",
)
_MAKERS: Final = ("zeros", "ones", "full", "arange", "linspace", "eye")
_ON_SINGLE_NAMES: Final = (
    "add sub rsub mul div true_divide floor_divide remainder neg pow sqrt abs ceil floor round trunc eq ne lt le gt ge "
    "minimum maximum to _to_copy clone detach lift_fresh lift_fresh_copy scalar_tensor"
)
_ON_SINGLE: Final = frozenset(_ON_SINGLE_NAMES.split())
"""These make one number out of numbers."""
_CODES: Final = {
    torch.uint8: 0, torch.int8: 1, torch.int16: 2, torch.int32: 3, torch.int64: 4, torch.float16: 5,
    torch.float32: 6, torch.float64: 7, torch.bool: 11, torch.bfloat16: 15,
}  # fmt: skip
_FLOATS: Final = (5, 6, 15, torch.float16, torch.float32, torch.bfloat16)

MOST_STEPS: Final = 200_000
"""Operations, calls and turns of loops in one pass."""
MOST_BYTES: Final = 16 * 2**30
"""Made in one pass, for each image."""
MOST_PRODUCTS: Final = 10**12
"""Multiplications in the layers of one pass, for each image: ten times a large vision transformer's."""
_ONE_ELEMENT: Final = 20
"""Multiplications in a layer that take as long as one element of anything else."""
_CONTRACTIONS: Final = (
    "linear",
    "addmm",
    "mm",
    "bmm",
    "baddbmm",
    "matmul",
    "mv",
    "dot",
    "einsum",
    "scaled_dot_product_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
)
_LONGEST_LIST: Final = 10_000
_DEEPEST: Final = 60
_SIZES: Final = (28, 32, 64, 96, 224, 299)


class Misfit(Exception):
    """A program cannot go on with this input; another shape may do."""


def _reshape(self: Tensor, size: list[int]) -> Tensor:
    return self.reshape(size)  # unlike view, also what is channels-last


def _batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *rest: Any,
    momentum: float = 0.1,
    eps: float = 1e-5,
    training: bool = False,
) -> tuple[Tensor, None, None]:
    """The decomposed batch norms read beyond statistics that are too short; the one that people call does not."""
    *mode, _, eps = rest or (training, momentum, eps)
    if any(mode):
        raise Refused("Its program is in training mode: save it again after model.eval().")
    out = torch.ops.aten.batch_norm(input, weight, bias, running_mean, running_var, False, 0.1, eps, False)
    return out, None, None


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> tuple[Tensor, None]:
    """As torch's own, which reads beyond a g that is too short."""
    return v * (g / torch.norm_except_dim(v, 2, dim)), None


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Checked: the kernels read beyond values that are fewer than the keys."""
    heads = query.shape[:-2] == key.shape[:-2] == value.shape[:-2] and query.shape[-1] == key.shape[-1]
    if not heads or key.shape[-2] != value.shape[-2] or dropout_p or enable_gqa:
        raise Misfit("queries, keys and values do not go together")
    if attn_mask is not None:
        attn_mask = attn_mask.expand(*query.shape[:-1], key.shape[-2])
    return nn.functional.scaled_dot_product_attention(query, key, value, attn_mask, 0.0, is_causal, scale=scale)


def _attention_kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, None]:
    return _attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale), None


_REPLACED: Final[Mapping[str, Callable[..., Any]]] = {
    "view": _reshape,
    "_unsafe_view": _reshape,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "_native_batch_norm_legit": _batch_norm,
    "native_batch_norm": _batch_norm,
    "_weight_norm": lambda v, g, dim=0: _weight_norm(v, g, dim)[0],
    "_weight_norm_interface": _weight_norm,
    "scaled_dot_product_attention": _attention,
    "_scaled_dot_product_flash_attention_for_cpu": _attention_kernel,
    "repeat_interleave": torch.ops.aten.repeat_interleave.self_int,  # the others trust a size that they are told
}


def _without_data(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to("meta")
    return type(value)(_without_data(item) for item in value) if type(value) in (list, tuple) else value


def _sane(values: Iterable[Any]) -> bool:
    """Whether all scales are: others would be turned into indices of no meaning."""
    flat = [item for value in values for item in (value if isinstance(value, (list, tuple)) else (value,))]
    return all(1e-3 <= item <= 1e3 for item in flat if isinstance(item, float))


class Walk:
    """One pass through a program: runs its operations, if they are allowed, and counts what they take."""

    def __init__(self, x: Tensor, tensor: Callable[[str], Tensor]) -> None:
        self.x = x
        self.tensor = tensor
        self._steps = self._bytes = self._products = 0

    def step(self) -> None:
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise Refused(f"Its program takes more than {MOST_STEPS:,} steps for one pass.")

    def operation(self, name: str, args: Iterable[Any], kwargs: Mapping[str, Any], overload: str = "") -> Any:
        """Run an operation of the namespace aten."""
        self.step()
        if name in _SILENT:
            return None
        if name not in OPERATORS:
            raise Refused(
                f"Its program uses the operation {name[:60]!r}, which is not on the list of those that are known to be "
                "safe: open the state dict instead."
            )
        args, kwargs = list(args), dict(kwargs)
        if "device" in kwargs or name in _MAKERS:
            kwargs["device"] = self.x.device
        kwargs.pop("pin_memory", None)
        if kwargs.get("dtype") in _FLOATS:
            kwargs["dtype"] = self.x.dtype
        if name == "to" and len(args) > 1 and type(args[1]) in (int, torch.dtype) and args[1] in _FLOATS:
            args[1] = self.x.dtype
        if name in _REPLACED:
            function: Any = _REPLACED[name]
            overload = ""
        else:
            function = getattr(torch.ops.aten, name)
        if overload:
            if overload not in function.overloads():
                raise Refused(f"Its program uses the operation {name}.{overload[:40]}, which torch does not know.")
            function = getattr(function, overload)
        if "upsample" in name and not _sane([*args, *kwargs.values()]):
            raise Misfit("a scale is out of range")
        if self.x.is_meta and name not in _ON_SINGLE:  # numbers that sizes are computed with have data even now
            args = [_without_data(arg) for arg in args]
            kwargs = {key: _without_data(arg) for key, arg in kwargs.items()}
        made = function(*args, **kwargs)
        if self.x.is_meta:
            self._count(name, [*args, *kwargs.values()], made)
        return made

    def _count(self, name: str, args: list[Any], made: Any) -> None:
        images = max(1, self.x.shape[0])
        flat = [item for arg in args for item in (arg if isinstance(arg, (list, tuple)) else (arg,))]
        given = [arg for arg in flat if isinstance(arg, Tensor)]
        held = {arg.untyped_storage()._cdata for arg in given}
        for tensor in made if isinstance(made, (tuple, list)) else (made,):
            if not isinstance(tensor, Tensor) or tensor.untyped_storage()._cdata in held:
                continue  # a view costs nothing
            self._bytes += tensor.numel() * tensor.element_size()
            self._products += _ONE_ELEMENT * (tensor.numel() + sum(arg.numel() for arg in given))
            if "conv" in name and len(given) > 1:
                self._products += tensor.numel() * (given[1].numel() // max(1, given[1].shape[0]))
            elif name in _CONTRACTIONS:
                self._products += tensor.numel() * max(arg.shape[-1] if arg.ndim else 1 for arg in given)
        if self._bytes > MOST_BYTES * images:
            raise Refused(f"Its program takes more than {MOST_BYTES >> 30} GiB of memory for one image.")
        if self._products > MOST_PRODUCTS * images:
            raise Refused("Its program takes too long for one image.")


Body: TypeAlias = Callable[[Walk], Any]


class Program(Network):
    """Normalised (B, C, H, W) to logits (B, K), by walking a program.

    Args:
        body: runs the program on `walk.x`.
        tensors: its weights by the names under which the body asks for them.
        trained: which of these are parameters.
        example: shape of the input that it was made with; None where that is not known or may differ.

    Raises:
        Refused: it is no differentiable, deterministic function from images to one vector each.
    """

    channels: int
    size: int | None
    """Side of the image; None: more than one of `sizes` will do."""
    sizes: tuple[int, ...]
    """Those; the one of the example alone, where the file has one."""
    outputs: int
    batch: int | None
    """How many images it takes at a time; None: any number."""

    def __init__(
        self,
        body: Body,
        tensors: Mapping[str, Tensor],
        trained: Iterable[str] = (),
        example: tuple[int | None, ...] = (None, None, None, None),
    ) -> None:
        super().__init__()
        self._body = body
        self._names = {name: f"t{i}" for i, name in enumerate(tensors)}
        self._measured: set[tuple[object, ...]] = set()
        trained = set(trained)
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and tensor.dtype != torch.float32:
                tensor = tensor.float()
            if name in trained and tensor.is_floating_point():
                self.register_parameter(self._names[name], nn.Parameter(tensor))
            else:
                self.register_buffer(self._names[name], tensor)
        if len(example) != 4:
            raise Refused("Its program was made for something else than a batch of images.")
        if example[2] != example[3]:
            raise Refused(f"Its program takes images of {example[3]}×{example[2]} pixels, and only square ones can be.")
        self.eval()
        self._settle(example[0], example[1], example[2])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to logits (B, K)."""
        if self.batch is None or len(x) == self.batch:
            return self._run(x)
        parts = []
        for part in torch.split(x, self.batch):
            missing = self.batch - len(part)
            whole = torch.cat((part, part[:1].expand(missing, -1, -1, -1))) if missing else part
            parts.append(self._run(whole)[: len(part)])
        return torch.cat(parts)

    def features(self, x: Tensor) -> Tensor:
        """The logits: a program does not say where its head begins."""
        return self.forward(x)

    def fold(self) -> None:
        """Nothing: it is used as it is."""

    def _run(self, x: Tensor) -> Tensor:
        shape = (*x.shape, x.dtype)
        if shape not in self._measured:
            self._measure(x)
            if len(self._measured) > 1000:
                self._measured.clear()
            self._measured.add(shape)
        # a copy, as a program may change its input in place
        return self._checked(self._body(Walk(x.clone(), lambda name: getattr(self, self._names[name]))), len(x))

    @torch.no_grad()
    def _measure(self, x: Tensor) -> None:
        """Walk through shapes alone. Raises Misfit, or Refused for what no shape will mend."""
        meta = torch.device("meta")

        def tensor(name: str) -> Tensor:
            return getattr(self, self._names[name]).to(meta)  # type: ignore[no-any-return]

        walk = Walk(torch.empty_like(x, device=meta), tensor)
        try:
            self._checked(self._body(walk), len(x))
        except (Refused, Misfit):
            raise
        except Exception as error:  # torch and a broken program raise nearly anything
            raise Misfit(str(error).split("\n")[0][:200]) from error

    def _checked(self, out: Any, images: int) -> Tensor:
        if isinstance(out, (tuple, list, dict)):
            kind = {tuple: "a tuple", list: "a list", dict: "a dictionary"}[type(out)]
            raise Refused(
                f"Its program gives {kind}, not one tensor of logits: save a module that returns logits alone."
            )
        if not isinstance(out, Tensor):
            raise Refused("Its program gives no tensor: save a module that returns logits.")
        if out.ndim != 2 or out.shape[1] == 0 or not out.is_floating_point():
            form = "×".join(str(size) for size in out.shape) or "single number"
            raise Refused(f"Its program gives a {form} {str(out.dtype).removeprefix('torch.')} tensor, not logits.")
        if len(out) != images:
            raise Misfit(f"{images} images give {len(out)} rows of logits")
        return out

    def _settle(self, batch: int | None, channels: int | None, size: int | None) -> None:
        reason = ""
        for count in dict.fromkeys((1, batch or 1)):
            for number in (channels,) if channels else (3, 1, 4, 2):
                fit = []
                for side in (size,) if size else _SIZES:
                    try:
                        self._measure(torch.empty(count, number, side, side, device="meta"))
                        fit.append(side)
                    except Misfit as error:
                        reason = reason or str(error)
                if fit:
                    self.channels, self.sizes = number, tuple(fit)
                    self.size = fit[0] if len(fit) == 1 else None
                    self.batch = count
                    return self._try_out(count)
        raise Refused(f"Its program takes no image of a usual size ({reason.rstrip('.')}).")

    def _try_out(self, count: int) -> None:
        """What shapes do not tell, on a few images."""
        side = self.size or self.sizes[0]
        images = torch.sin(torch.arange((count + 1) * self.channels * side * side) * 0.7310585)
        images = images.view(count + 1, self.channels, side, side)
        weights = [*self.parameters(), *self.buffers()]
        versions = [weight._version for weight in weights]
        with torch.enable_grad():
            x = images[:count].clone().requires_grad_()
            out = self._run(x)
            gradient = torch.autograd.grad(out.sum(), x, allow_unused=True)[0] if out.requires_grad else None
        if gradient is None:
            raise Refused("Its program cannot be differentiated by its input: save it without detach and no_grad.")
        self.outputs = out.shape[1]
        with torch.no_grad():
            if versions != [weight._version for weight in weights]:
                raise Refused("Its program changes its own weights: save it again after model.eval().")
            if not _close(out, self._run(images[:count])):
                raise Refused("Its program gives something else each time: save it again after model.eval().")
            other = self._run(images[1:])
            try:
                whole = self._run(images)
            except (Misfit, RuntimeError):  # made for a fixed number of images
                whole = None
            apart = torch.cat((out[:1], other))
            if whole is not None and _close(whole, apart):
                self.batch = None
            elif (whole is not None and count == 1) or (count > 1 and not _close(out[1:], other[:-1])):
                raise Refused("The images of a batch influence each other in it: save it again after model.eval().")


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, 1e-3, 1e-4, equal_nan=True)


# TorchScript


@dataclass(frozen=True)
class Weight:
    """A tensor of the file, in a place where a value is wanted."""

    name: str


@dataclass
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
                return {str(self.value(k, env)): self.value(v, env) for k, v in zip(keys, values, strict=True) if k}
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

    def held(self, value: Any) -> Any:
        """A value of the file, with tensors for the names of tensors; no list of it is shared between passes."""
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
            case ("", "", "getattr") if len(given) == 2:
                return self.attribute(given[0], str(given[1]))
            case ("", "", "int") if given:
                return int(self.number(given[0]))
            case ("", "", "float") if given:
                return float(self.number(given[0]))
            case ("", "", "bool") if given:
                return self.truth(given[0])
            case ("torch", _, "device"):
                return self.walk.x.device
            case ("ops.prim", _, "RaiseException"):
                raise Misfit(str(given[0])[:200] if given else "it raises an exception")
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
            if isinstance(done, int) and abs(done) > 2**63:
                raise Refused("Its program computes with numbers that are too long.")
            return done
        if name == "slice" and isinstance(first, list):
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
    "eq": operator.eq,
    "ne": operator.ne,
    "__and__": _of_numbers(operator.and_),
    "__or__": _of_numbers(operator.or_),
    "__xor__": _of_numbers(operator.xor),
    "__not__": _of_numbers(operator.not_),
    "__contains__": lambda items, item: item in items,
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
    "min": lambda *args: min(*args),
    "max": lambda *args: max(*args),
    "abs": _of_numbers(abs),
}

# torch.export


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
