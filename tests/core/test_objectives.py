"""What a step of training lowers, against the theory: the likelihood gradient in its parts, computed apart."""

from __future__ import annotations

import math

import pytest
import torch
from scenarios import beginnings
from torch import Tensor, nn
from torch.nn import functional

from cem_core.models.preact_resnet import PreActResNet
from cem_core.training import objectives
from cem_core.training.recipe import Adversarial, Attack, Contrastive, Standard, Trades

Y = torch.tensor([0, 2, 1])
CLASSES = 4


def noise(x: Tensor, seed: int = 1) -> Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)


def network(classes: int = CLASSES) -> PreActResNet:
    """A small one whose weights and running statistics are anything but trivial; each image is alone in it."""
    torch.manual_seed(0)
    net = PreActResNet((1, 1, 1, 1), 2, 3, classes, "silu", bottleneck=False, shortcut_activated=True, final_bn=True,
                       projection=0 if classes else 5)  # fmt: skip
    for part in net.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight)
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    return net.double().eval()


def images(count: int = 3, seed: int = 0) -> Tensor:
    return beginnings(count, (3, 16, 16), seed).double()


def gradient(of: Tensor, net: nn.Module) -> Tensor:
    """By all weights, in one row."""
    found = torch.autograd.grad(of, list(net.parameters()), retain_graph=True, allow_unused=True)
    pairs = zip(found, net.parameters(), strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs]).double()


def expected(net: nn.Module, x: Tensor) -> list[Tensor]:
    """E_ŷ ∇f(x,ŷ) under p(ŷ|x), for each image, class by class."""
    f = net(x)
    p = f.detach().double().softmax(1)
    return [sum(p[i, k] * gradient(f[i, k], net) for k in range(CLASSES)) for i in range(len(x))]  # type: ignore[misc]


def close(found: Tensor, wanted: Tensor) -> None:
    assert (found - wanted).norm() <= 1e-4 * wanted.norm()
    assert wanted.norm() > 1e-3


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_contrastive_part_is_the_gradient_of_adversarial_training(norm: str, steps: int) -> None:
    """∇CE(x̂) = −E_ŷ[∇f(x̂,y) − ∇f(x̂,ŷ)], ŷ ~ p(y|x̂), by all weights."""
    net, x = network(), images()
    asked = Adversarial(eps=0.5 if norm == "l2" else 0.03, norm=norm, steps=steps)  # type: ignore[arg-type]
    changed = objectives.attacked(lambda x: functional.cross_entropy(net(x), Y, reduction="sum"), x, asked, noise(x))
    lowered = objectives.loss(net, x, Y, asked, noise(x))
    mean = expected(net, changed)
    contrastive = [gradient(net(changed)[i, Y[i]], net) - mean[i] for i in range(len(x))]
    close(gradient(lowered, net), -torch.stack(contrastive).mean(0))


@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_consistency_and_contrastive_part_make_the_likelihood_gradient(weight: float) -> None:
    """The term alone is minus its part, and with weight 1 the sum is minus ∇f(x,y) − E_ŷ ∇f(x̂,ŷ)."""
    net, x = network(), images()
    plain = Adversarial(eps=0.5, steps=2)
    asked = Adversarial(eps=0.5, steps=2, consistency=weight)
    changed = objectives.attacked(lambda x: functional.cross_entropy(net(x), Y, reduction="sum"), x, asked, noise(x))
    mean = expected(net, changed)
    at_data = [gradient(net(x)[i, Y[i]], net) for i in range(len(x))]
    at_changed = [gradient(net(changed)[i, Y[i]], net) for i in range(len(x))]
    whole = gradient(objectives.loss(net, x, Y, asked, noise(x)), net)
    contrastive = gradient(objectives.loss(net, x, Y, plain, noise(x)), net)
    consistency = torch.stack([a - b for a, b in zip(at_data, at_changed, strict=True)]).mean(0)
    close(whole - contrastive, -weight * consistency)
    if weight == 1:
        close(whole, -torch.stack([a - b for a, b in zip(at_data, mean, strict=True)]).mean(0))


def test_importance_sampling_makes_the_gradient_of_info_nce() -> None:
    """∇f(x,x') − Σ_j w_j ∇f(x,x_j), the other views being the proposal: each f apart, each weight by hand."""
    net, views, temperature = network(0), images(6), 0.5
    asked = Contrastive(projection=5, temperature=temperature)

    def f(i: int, j: int) -> Tensor:
        """The cosine over the temperature, written out."""
        g, other = net.embedding(views[i : i + 1])[0], net.embedding(views[j : j + 1])[0]
        return (g * other).sum() / (g.square().sum().sqrt() * other.square().sum().sqrt()) / temperature

    parts = []
    for i in range(6):
        pair = (i + 3) % 6
        others = [j for j in range(6) if j != i]
        values = {j: f(i, j).item() for j in others}
        proposal = 1 / len(others)  # views are as likely as they are drawn
        raw = {j: math.exp(values[j]) / proposal for j in others}
        of_model = sum(raw[j] / sum(raw.values()) * gradient(f(i, j), net) for j in others)
        parts.append(gradient(f(i, pair), net) - of_model)
    lowered = objectives.loss(net.embedding, views, Y, asked, noise(views))
    close(gradient(lowered, net), -torch.stack(parts).mean(0))


def test_info_nce_of_known_vectors() -> None:
    """Pairs that are one, and all else at right angles: log(1 + 2·e^(−1/T))."""
    g = torch.tensor([[1.0, 0.0], [0.0, 3.0], [2.0, 0.0], [0.0, 0.5]])
    for temperature in (0.2, 1.0):
        wanted = math.log(1 + 2 * math.exp(-1 / temperature))
        torch.testing.assert_close(objectives.info_nce(g, temperature), torch.full((4,), wanted))


# TRADES -----------------------------------------------------------------------------------------------------------


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL of (B, K) probabilities from others, written out."""
    return (p * (p.log() - q.log())).sum(1)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_trades_is_what_the_paper_says(norm: str) -> None:
    net, x = network(), images()
    asked = Trades(eps=0.5 if norm == "l2" else 0.03, norm=norm, steps=4, beta=3.0)  # type: ignore[arg-type]
    seen = net(x).softmax(1)
    with torch.no_grad():
        begun = 1e-3 * noise(x)
    offset = (x + begun).clamp(0, 1) - x
    for _ in range(4):
        point = (x + offset).detach().requires_grad_()
        (up,) = torch.autograd.grad(divergence(seen.detach(), net(point).softmax(1)).sum(), point)
        if norm == "linf":
            offset = (offset + asked.length * up.sign()).clamp(-asked.eps, asked.eps)
        else:
            offset = offset + asked.length * up / up.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            size = offset.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            offset = offset * (asked.eps / size).clamp(max=1)
        offset = (x + offset).clamp(0, 1) - x
    wanted = functional.cross_entropy(net(x), Y) + 3.0 * divergence(seen, net(x + offset.detach()).softmax(1)).mean()
    found = objectives.loss(net, x, Y, asked, noise(x))
    torch.testing.assert_close(found, wanted.float(), rtol=1e-4, atol=1e-5)
    close(gradient(found, net), gradient(wanted, net))
    assert wanted.item() > functional.cross_entropy(net(x), Y).item() + 1e-4


def test_trades_finds_more_than_chance() -> None:
    net, x = network(), images()
    asked = Trades(eps=0.5, steps=5, beta=1.0)
    clean = objectives.loss(net, x, Y, Standard(), noise(x))
    found = objectives.loss(net, x, Y, asked, noise(x)) - clean
    by_chance = divergence(net(x).softmax(1), net(x + 0.5 * functional.normalize(noise(x, 2), dim=(1, 2, 3)))
                           .softmax(1)).mean()  # fmt: skip
    assert found.item() > 2 * by_chance.item()


@pytest.mark.parametrize("objective", [Adversarial(eps=0.3, steps=2, consistency=0.5), Trades(eps=0.3, steps=2)])
def test_smoothing_is_of_the_labels(objective: Adversarial | Trades) -> None:
    """At half, the loss lies between that of the labels and that of no labels at all."""
    net, x = network(), images()
    losses = [objectives.loss(net, x, Y, objective, noise(x), smoothing).item() for smoothing in (0.0, 0.5, 1.0)]
    assert losses[1] == pytest.approx((losses[0] + losses[2]) / 2, rel=1e-4)
    assert losses[0] != losses[2]


def test_both_views_are_attacked_and_each_part_counts() -> None:
    net, views = network(0), images(6)
    asked = Contrastive(attack=Attack(eps=0.5, steps=3), projection=5)
    attacked = objectives.loss(net.embedding, views, Y, asked, noise(views)).item()
    clean = objectives.info_nce(net.embedding(views), 0.5).mean().item()
    assert attacked > clean
    both = Contrastive(attack=Attack(eps=0.5, steps=3), projection=5, clean=2.0)
    found = objectives.loss(net.embedding, views, Y, both, noise(views)).item()
    assert found == pytest.approx(attacked + 2 * clean, rel=1e-5)
