"""Sanity lights: reasons to trust a number, or not to.

A robust accuracy is an upper bound that a failing attack leaves too high; what makes attacks fail without anybody
noticing is known (Athalye et al. 2018; Carlini et al. 2019; Croce and Hein 2020). Each light looks for one such thing.
`of_model` asks a model once, `of_cells` reads what the attacks have told.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from cem_core.messages import Checkpoint, Refused
from cem_core.probes.measuring import Cancelled, GoOn, asking
from cem_core.probes.requests import MAX_EPS, Attack
from cem_core.probes.results import Cell, Light, State, wilson

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cem_core.samplers import Logits

FEW, MANY = 0.05, 0.25
"""Shares of the attacked images. From few on a curve may be wrong by as much as its 95 % band over a thousand images,
from many on it is about the attack and not about the model."""
UNCONVERGED: Final = (0.01, 0.05)
"""Shares of the attacked images that only the last restart breaks: as many again must be expected of further ones."""
ALONE: Final = 8
"""Images that go through the model together and then one by one."""
ROUNDING: Final = 0.02
"""Share of the spread of the logits by which rounding may move them: half precision and TF32 reach 0.01; dropout and
batch statistics begin at 0.1."""
SUMS: Final = 0.01
"""By how much probabilities in half precision miss the sum of 1, or their logarithms the LSE of 0."""
WELL: Final = {10: 0.6, 1000: 0.3}
"""Up to so many classes, the share of labelled images below which no published model is, robust or not."""
BELOW: Final = 0.05
"""By how much less than what is recorded of a model is not another choice of images any more."""
BETTER: Final = 0.05
"""Share of the images that another normalisation must recognise in addition."""
DEVIATIONS: Final = 2.4
"""Of a sign test: one of four readings looks better by chance three times in a hundred, were they equally good."""
LOOKED_AT: Final = 128
"""Images on which a model as such is looked at."""
ENOUGH: Final = 10
"""Labelled images below which a share says little."""
UNBOUNDED: Final = 16
"""Images that are attacked without bounds."""
UNBOUNDED_STEPS: Final = 40
SURVIVORS: Final = 0.2
"""Share of them that an attack without bounds may leave; any at all is a doubt."""


def of_model(
    logits_of: Logits,
    module: nn.Module | None,
    checkpoint: Checkpoint,
    x: Tensor,
    y: Tensor,
    attack: Attack,
    go_on: GoOn = lambda: True,
    columns: tuple[int, ...] | None = None,
) -> tuple[Light, ...]:
    """What is seen of a model as such: logits, mode, preprocessing, unbounded.

    Args:
        logits_of: what is judged, images to logits (B, K) of the shared classes.
        module: the model itself; None where there is nothing but a function.
        x: (B, C, H, W) in [0,1] images, at least one. y: (B,) their classes.
        attack: of it, the norm.
        columns: which logits of the module are judged; None: all, in their order.

    Raises:
        Cancelled: `go_on` said so before a forward pass.
    """
    import torch

    judged, whole = asking(logits_of, go_on), asking(module or logits_of, go_on)
    mode = _mode(whole, module, x[:ALONE])  # first: in train mode, each forward pass changes what the next one gives
    with torch.no_grad():
        logits, outputs = judged(x), whole(x[:ALONE])
    right = logits.argmax(1) == y
    return (
        _logits(outputs),
        mode,
        _preprocessing(right, columns or tuple(range(logits.shape[1])), module, checkpoint, x, y, go_on),
        _unbounded(judged, x[right][:UNBOUNDED], y[right][:UNBOUNDED], attack),
    )


def of_cells(cells: Sequence[Cell], attack: Attack | None = None) -> tuple[Light, ...]:
    """What the attacks of one model at one ε have told: gradients, loss, restarts; nothing where ε is 0.

    Args:
        attack: what was used; pyautoattack's attacks keep to themselves what two of the lights want to know.
    """
    if not any(cell.eps > 0 for cell in cells):
        return ()
    attacked = sum(cell.attacked for cell in cells)
    if not attacked:
        nothing = "No image is classified rightly as it is, so nothing was attacked."
        return tuple(Light(name, "unknown", nothing) for name in ("gradients", "loss", "restarts"))
    vanished = sum(cell.vanished for cell in cells)
    ours = attack is None or attack.name == "pgd"
    return (
        _gradients(vanished, attacked),
        _loss(sum(cell.stuck for cell in cells), attacked)
        if ours
        else Light("loss", "unknown", "The loss is not known: the attack keeps its own."),
        _restarts([cell.broken for cell in cells if cell.attacked], attacked)
        if ours
        else Light("restarts", "unknown", "The restarts of this attack are its own: it tells only the best."),
    )


def _graded(share: float, few: float, many: float) -> State:
    return "alarm" if share >= many else "doubt" if share >= few else "fine"


def _of(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,}"


# What the attacks have told ---------------------------------------------------------------------------------------


def _gradients(vanished: int, attacked: int) -> Light:
    state = _graded(vanished / attacked, FEW, MANY)
    if state == "fine":
        return Light("gradients", state, f"The gradient shows a way at {_of(attacked - vanished, attacked)} images.")
    return Light(
        "gradients",
        state,
        f"The gradient of the loss is zero or lost in rounding at {_of(vanished, attacked)} attacked images: they "
        "withstood because the attack saw no way, not because there is none.",
        "Use APGD-T or AutoAttack, whose losses do not saturate and which also try without gradients; look for "
        "rounding, thresholds or very large logits in the model.",
    )


def _loss(stuck: int, attacked: int) -> Light:
    state = _graded(stuck / attacked, FEW, MANY)
    if state == "fine":
        return Light("loss", state, f"The attack raised the loss of {_of(attacked - stuck, attacked)} images.")
    return Light(
        "loss",
        state,
        f"The attack did not raise the loss of {_of(stuck, attacked)} images, so it did not attack them.",
        "Take more steps, which are smaller then, or APGD, which adapts them.",
    )


def _restarts(broken: Sequence[tuple[int, ...]], attacked: int) -> Light:
    restarts = max(map(len, broken))
    if restarts < 2:
        return Light(
            "restarts",
            "unknown",
            "Only one start was tried, so it is not known whether others would break more.",
            "Give the attack five restarts.",
        )
    last = sum(each[-1] for each in broken if len(each) == restarts)
    state = _graded(last / attacked, *UNCONVERGED)
    if state == "fine":
        return Light("restarts", state, f"The last of {restarts} starts broke {_of(last, attacked)} images anew.")
    return Light(
        "restarts",
        state,
        f"The last of {restarts} starts still broke {_of(last, attacked)} images that no start before had: further "
        "ones would break more.",
        "Give it more restarts and steps, or use APGD or AutoAttack.",
    )


# What is seen of a model ------------------------------------------------------------------------------------------


def _logits(outputs: Tensor) -> Light:
    """(B, K) outputs of the whole model."""
    inside = bool(((outputs >= 0) & (outputs <= 1)).all())
    if inside and bool(((outputs.sum(1) - 1).abs() < SUMS).all()):
        return Light(
            "logits",
            "alarm",
            "The model gives probabilities instead of logits: E(x) = -LSE says nothing of them, and the gradient of "
            "the loss fades where the model is sure.",
            "Leave the softmax at its end out: save the network without it, and open that.",
        )
    if inside and outputs.numel() >= 4 * ENOUGH:
        return Light(
            "logits",
            "doubt",
            "All outputs lie between 0 and 1, as those of a sigmoid do: energies and the loss expect logits.",
            "Leave the sigmoid at its end out, if there is one.",
        )
    if bool((outputs <= 0).all()) and bool((outputs.logsumexp(1).abs() < SUMS).all()):
        return Light(
            "logits",
            "doubt",
            "The model gives logarithms of probabilities: accuracies are right, but E(x) = -LSE is 0 for every image.",
            "To look at energies, leave the log-softmax at its end out.",
        )
    return Light("logits", "fine", "The model gives logits.")


def _mode(whole: Logits, module: nn.Module | None, x: Tensor) -> Light:
    """Whether a batch norm or dropout says that it is training, or the model behaves as if one did."""
    import torch
    from torch import nn

    do = "Call eval() on the model before it is saved or exported; if it is random by design, average over many runs."
    of_training = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    if module is not None:
        training = [type(part).__name__ for part in module.modules() if part.training and isinstance(part, of_training)]
        if training:
            return Light("mode", "alarm", f"The model is in train mode: {training[0]} changes what it gives.", do)
    with torch.no_grad():
        together = whole(x)
        room = ROUNDING * float(together.max() - together.min())
        try:
            alone, again = (torch.cat([whole(one[None]) for one in x]) for _ in range(2))
        except ValueError:  # what a batch norm in train mode makes of a single image
            return Light("mode", "alarm", "The model takes no single image, as in train mode.", do)
    if float((alone - again).abs().max()) > room:
        said = "The same image gives other logits each time: the model is in train mode (dropout), or random."
        return Light("mode", "alarm", said, do)
    if float((alone - together).abs().max()) > room:
        said = "An image gives other logits beside other images: the model is in train mode (batch statistics)."
        return Light("mode", "alarm", said, do)
    return Light("mode", "fine", "An image gives the same logits each time, alone and beside others.")


def _preprocessing(
    right: Tensor,
    columns: tuple[int, ...],
    module: nn.Module | None,
    checkpoint: Checkpoint,
    x: Tensor,
    y: Tensor,
    go_on: GoOn,
) -> Light:
    """Whether labelled images are recognised, and if another reading of the file recognises more.

    Other normalisations are tried in any case, which costs a forward pass each: wrong ones lose only a few images.
    """
    total, correct = len(y), int(right.sum())
    seen = f"{100 * correct / total:.0f} % of {total:,} labelled images are recognised"
    better = _better_normalisation(right, columns, module, checkpoint, x, y, go_on)
    band, classes, known = wilson(correct, total), len(columns), _recorded(checkpoint)
    least = next((share for most, share in WELL.items() if classes <= most), 0.0)
    guessing = band.low <= 1 / classes and correct / total < (1 + 1 / classes) / 2
    if better is None and (guessing or band.high < least):
        better = _better_reading(checkpoint, module, go_on)
    if better is not None:
        what, value, share = better
        said = shlex.quote(f"{what.replace(' ', '_')}={value}")
        return Light(
            "preprocessing",
            "alarm",
            f"{seen}; with {what} “{value}” {share}.",
            f"Choose this {what} under Details (--assume {said}).",
        )
    do = "Check the normalisation, the class names and their order under Details; or the labels of the images."
    if total < ENOUGH:
        return Light("preprocessing", "unknown", f"{seen}, too few to tell.", "Take more images.")
    if guessing:
        return Light("preprocessing", "alarm", f"Only {seen}, no more than by guessing.", do)
    if band.high < least:
        return Light("preprocessing", "doubt", f"Only {seen}, which is less than any usual model does.", do)
    if known is not None and band.high < known - BELOW:
        return Light("preprocessing", "doubt", f"Only {seen}, and {100 * known:.1f} % are recorded of this model.", do)
    return Light("preprocessing", "fine", f"{seen}.")


def _better_normalisation(
    right: Tensor,
    columns: tuple[int, ...],
    module: nn.Module | None,
    checkpoint: Checkpoint,
    x: Tensor,
    y: Tensor,
    go_on: GoOn,
) -> tuple[str, str, str] | None:
    """A normalisation with which the same network recognises more of the images: fact, value, and how many."""
    import torch

    from cem_core.checkpoints import preprocessing
    from cem_core.models import Model

    fact = checkpoint.fact("normalisation")
    if fact is None or not isinstance(module, Model):
        return None
    best: tuple[str, str, str] | None = None
    most = int(right.sum()) + BETTER * len(y)
    for value in fact.options:
        if value == fact.value:
            continue
        if not go_on():
            raise Cancelled
        other = Model(module.net, preprocessing.parse(value, checkpoint.channels)).to(x.device)
        with torch.no_grad():
            instead = other(x)[:, columns].argmax(1) == y
        won, lost = int((instead & ~right).sum()), int((right & ~instead).sum())
        if int(instead.sum()) >= most and won - lost >= DEVIATIONS * (won + lost) ** 0.5:
            most = int(instead.sum()) + 1
            best = fact.what, value, f"{100 * int(instead.sum()) / len(y):.0f} % would be"
    return best


def _better_reading(checkpoint: Checkpoint, module: nn.Module | None, go_on: GoOn) -> tuple[str, str, str] | None:
    """What `checkpoints.check` finds with the bundled images, if they say anything of this model."""
    from cem_core import checkpoints
    from cem_core.models import Model

    if not isinstance(module, Model):
        return None
    choices = {fact.what: fact.value for fact in checkpoint.facts if fact.source == "choice"}
    with suppress(Refused):  # the file is gone
        found = checkpoints.check(
            checkpoint.path, choices, go_on, device="cuda" if module.device.type == "cuda" else "cpu"
        )
        if not go_on():
            raise Cancelled
        if found is not None and found.better is not None:
            what, value, right = found.better
            return what, value, f"{right} of {found.total} bundled ones would be, not {found.right}"
    return None


def _recorded(checkpoint: Checkpoint) -> float | None:
    """Clean accuracy that is recorded of a model, as a share."""
    fact = checkpoint.fact("accuracy")
    with suppress(ValueError):
        return float(fact.value.split(" % clean")[0]) / 100 if fact else None
    return None


def _unbounded(judged: Logits, x: Tensor, y: Tensor, attack: Attack) -> Light:
    """PGD from the images themselves in the ball that holds all images.

    Without its random start, which in such a ball is noise, and flips most models whatever their gradients are.
    """
    from cem_core import samplers
    from cem_core.probes.attacks import pgd

    if not len(x):
        return Light("unbounded", "unknown", "No image is classified rightly as it is, so none could be attacked.")
    radius = x[0].numel() ** 0.5 if attack.norm == "l2" else MAX_EPS["linf"]
    row = msgspec.structs.replace(pgd(attack.norm, radius, UNBOUNDED_STEPS), random_start=False)
    standing = y == y
    state = samplers.begin(row, x, y, tuple(range(len(x))))
    for step in range(row.steps + 1):
        reading = samplers.read(judged, row, state)
        standing &= reading.logits.argmax(1) == y
        if step == row.steps or not standing.any():
            break
        state = samplers.step(row, state, reading.drift)
    left = int(standing.sum())
    if not left:
        return Light("unbounded", "fine", f"Without a bound, the attack breaks all of {len(x)} images.")
    return Light(
        "unbounded",
        "alarm" if left > SURVIVORS * len(x) else "doubt",
        f"{_of(left, len(x))} images withstand an attack without any bound, which nothing can: gradients are masked.",
        "Do not trust the robust accuracy. Use AutoAttack, whose Square attack needs no gradients; look for rounding, "
        "randomness or saturation in the model.",
    )
