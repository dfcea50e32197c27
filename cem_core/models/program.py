"""A network that its file brings along as a program of tensor operations: TorchScript or torch.export.

The loaders of these formats run more than tensor operations, so neither is used: a program is walked here, and
whatever is not one of `OPERATORS` ends the walk. Each new shape of the input is first walked on the meta device, where
tensors have no data: what would take too much memory or time, or would decide by pixels what to do, is thus refused
before it begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

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
_FLOATS: Final = (5, 6, 15, torch.float16, torch.float32, torch.bfloat16)

MOST_STEPS: Final = 400_000
"""In one pass: calls, turns of loops, parts of expressions and items of lists that are gone through."""
_ONE_OPERATION, _ONE_TENSOR = 40, 10
"""Steps that take as long as an operation on no tensor, and as one tensor more."""
_MOST_TRIED: Final = 2 * MOST_STEPS
"""Steps of all passes in which the size of the images is looked for."""
_MOST_TENSORS: Final = 20_000
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
_SIZES: Final = (28, 32, 64, 96, 224, 299)


class Misfit(Exception):
    """A program cannot go on with this input; another shape may do."""


@dataclass(frozen=True)
class Weight:
    """A tensor of the file, in a place where a value is wanted."""

    name: str


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
    return all(1e-3 <= value <= 1e3 for value in values if isinstance(value, float))


_PLAIN: Final = (bool, int, float, str, torch.dtype, torch.device, torch.memory_format, torch.layout, type(None))


def _given(args: Iterable[Any]) -> list[Any]:
    """Tensors and plain values, lists unfolded. Raises Misfit for any others: torch would print them in its errors."""
    found: list[Any] = []
    for arg in args:
        found.extend(arg if type(arg) in (list, tuple) else (arg,))
    if not all(isinstance(item, Tensor) or type(item) in _PLAIN for item in found):
        raise Misfit("an operation is given what it does not take")
    return found


def _drops(args: list[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a dropout, called with an input, a probability and a mode, is left to chance."""
    probability = args[1] if len(args) > 1 else kwargs.get("p")
    training = args[2] if len(args) > 2 else kwargs.get("train")
    return training is not False and probability != 0


class Walk:
    """One pass through a program: runs its operations, if they are allowed, and counts what they take."""

    def __init__(self, x: Tensor, tensor: Callable[[str], Tensor], pause: Callable[[], None] | None = None) -> None:
        self.x = x
        self.tensor = tensor
        self.steps = 0
        self._bytes = self._products = 0
        self._pause = pause

    def step(self, count: int = 1) -> None:
        self.steps += count
        if self.steps > MOST_STEPS:
            raise Refused(f"Its program takes more than {MOST_STEPS:,} steps for one pass.")

    def operation(self, name: str, args: Iterable[Any], kwargs: Mapping[str, Any], overload: str = "") -> Any:
        """Run an operation of the namespace aten."""
        args, kwargs = list(args), dict(kwargs)
        given = _given([*args, *kwargs.values()])
        self.step(_ONE_OPERATION + len(given) + _ONE_TENSOR * sum(isinstance(item, Tensor) for item in given))
        if self._pause:
            self._pause()
        if name in _SILENT:
            return None
        if name not in OPERATORS:
            raise Refused(
                f"Its program uses the operation {name[:60]!r}, which is not on the list of those that are known to be "
                "safe: open the state dict instead."
            )
        if name == "batch_norm" and (kwargs.get("training") or any(args[5:6])):
            raise Refused("Its program is in training mode: save it again after model.eval().")
        if "dropout" in name and _drops(args, kwargs):
            raise Refused("Its program gives something else each time: save it again after model.eval().")
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
        if "upsample" in name and not _sane(given):
            raise Misfit("a scale is out of range")
        if self.x.is_meta and name not in _ON_SINGLE:  # numbers that sizes are computed with have data even now
            args = [_without_data(arg) for arg in args]
            kwargs = {key: _without_data(arg) for key, arg in kwargs.items()}
        made = function(*args, **kwargs)
        if self.x.is_meta:
            self._count(name, _given([*args, *kwargs.values()]), made)
        return made

    def _count(self, name: str, args: list[Any], made: Any) -> None:
        images = max(1, self.x.shape[0])
        given = [arg for arg in args if isinstance(arg, Tensor)]
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
Watch: TypeAlias = Callable[[float], None]


class Program(Network):
    """Normalised (B, C, H, W) to logits (B, K), by walking a program.

    Args:
        body: runs the program on `walk.x`.
        tensors: its weights by the names under which the body asks for them.
        trained: which of these are parameters.
        example: shape of the input that it was made with; None where that is not known or may differ.
        watch: told the share of the trial that is done; what it raises ends it.

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
        watch: Watch | None = None,
    ) -> None:
        super().__init__()
        if len(tensors) > _MOST_TENSORS:
            raise Refused("It has more tensors than any model: save its state dict alone.")
        self._body = body
        self._watch, self._share = watch, 0.0
        self._room = _MOST_TRIED
        self._names = {name: f"t{i}" for i, name in enumerate(tensors)}
        self._measured: set[tuple[object, ...]] = set()
        trained = set(trained)
        converted: dict[int, Tensor] = {}
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and tensor.dtype != torch.float32:
                if id(tensor) not in converted:
                    converted[id(tensor)] = tensor.float()
                tensor = converted[id(tensor)]
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
        self._watch = None

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
        walk = Walk(x.clone(), lambda name: getattr(self, self._names[name]), self._pause)
        return self._checked(self._body(walk), len(x))

    def _pause(self) -> None:
        if self._watch:
            self._watch(self._share)

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
        finally:
            self._room -= walk.steps

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
                    self._pause()
                    if self._room < 0:
                        break
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
        if self._room < 0:
            raise Refused("It takes too long to find out which images its program takes.")
        raise Refused(f"Its program takes no image of a usual size ({reason.rstrip('.')}).")

    def _try_out(self, count: int) -> None:
        """What shapes do not tell, on as few images as can be: one pass forward and back, and one forward of one more.

        The images of the first pass stand behind another one in the second, and must come to the same.
        """
        side = self.size or self.sizes[0]
        images = torch.sin(torch.arange((count + 1) * self.channels * side * side) * 0.7310585)
        images = images.view(count + 1, self.channels, side, side) * torch.linspace(2, 1, count + 1).view(-1, 1, 1, 1)
        weights = [*self.parameters(), *self.buffers()]
        versions = [weight._version for weight in weights]
        self._share = 0.1
        with torch.enable_grad():
            x = images[1:].clone().requires_grad_()
            out = self._run(x)
            self._share = 0.3
            self._pause()
            gradient = torch.autograd.grad(out.sum(), x, allow_unused=True)[0] if out.requires_grad else None
        if gradient is None:
            raise Refused("Its program cannot be differentiated by its input: save it without detach and no_grad.")
        self.outputs = out.shape[1]
        self._share = 0.6
        with torch.no_grad():
            if versions != [weight._version for weight in weights]:
                raise Refused("Its program changes its own weights: save it again after model.eval().")
            try:
                whole = self._run(images)
            except (Misfit, RuntimeError):  # made for a fixed number of images
                whole = None
            if whole is not None and _close(whole[1:], out):
                self.batch = None
            elif (whole is not None and count == 1) or not _close(self._run(images[1:].roll(1, 0)).roll(-1, 0), out):
                if _close(self._run(images[1:]), out):
                    raise Refused("The images of a batch influence each other in it: save it again after model.eval().")
                raise Refused("Its program gives something else each time: save it again after model.eval().")


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, 1e-3, 1e-4, equal_nan=True)
