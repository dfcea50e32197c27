"""ResNets with a batch norm for each kind of image: ACL, DynACL, AdvCL and AMOC.

Adversarial contrastive learning sends clean and attacked images through the same convolutions, and through batch norms
of their own. One such route is an ordinary ResNet, and that is what is opened: only the keys differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Final

from cem_core.models import resnet
from cem_core.models.family import Evidence, Plan, Shapes, count

FAMILY: Final = "multi_bn_resnet"
_BN_LIST: Final = ("normal", "pgd", "pgd_ce")
"""Routes in their order in the list: ACL and DynACL have two, AdvCL three; without attacks there is the first alone."""
_ROUTE: Final = re.compile(r"\.(?:bn_list\.\d+|bn_list|bn_clean|bn_adv)(?=\.)")
_PROJECTION: Final = re.compile(r"fc\.(?:fc|bn)\d\.|fc_\d+\.|head_(?:ce|proj|pred)\.")


def recognise(shapes: Shapes, evidence: Evidence) -> Plan | None:
    """A plan if the keys are those of this family, else None."""
    routes = count(shapes, "bn1.bn_list")
    facts, normalisation = [], None
    if {"bn1.bn_clean.weight", "bn1.bn_adv.weight"} <= shapes.keys():
        clean = re.search(r"(?<![A-Z])(?:CCC|CAC|CAA)(?![A-Z])", evidence.name) is not None
        why = "this kind of pre-training" if clean else "all but CCC, CAC and CAA"
        fact = evidence.settle("route", ("clean", "adv"), "clean" if clean else "adv", 0.8, f"its authors' for {why}")
        facts, route = [fact], f".bn_{fact.value}"
    elif 2 <= routes <= len(_BN_LIST):
        fact = evidence.settle("route", _BN_LIST[:routes], "pgd", 0.9, "its authors evaluate this one")
        facts, route = [fact], f".bn_list.{_BN_LIST.index(fact.value)}"
        if routes == 3:
            normalisation = ("none", 0.95, "AdvCL takes images as they are")
        else:
            normalisation = ("ImageNet", 0.9, "ACL and DynACL have it inside the network")
    elif routes == 1 or "bn1.bn_list.weight" in shapes:
        route = ".bn_list.0" if routes else ".bn_list"
        normalisation = ("ImageNet", 0.9, "ACL has it inside the network")
    else:
        return None

    names = _names(shapes, route)
    plain = {name: shapes[key] for name, key in names.items()}
    plan = resnet.read(plain, evidence, family=FAMILY, stages=4, base=64)
    if plan is None:
        return None
    if normalisation is None:
        hundred = plan.classes == 100 or re.search(r"cifar.?100", evidence.name, re.IGNORECASE) is not None
        sure = 0.9 if hundred or plan.classes else 0.7
        normalisation = ("AMOC CIFAR-100" if hundred else "AMOC CIFAR-10", sure, "the constants of AMOC's code")
    return replace(
        plan,
        title=f"Multi-BN {plan.title}",
        size=96 if plan.size == 224 else plan.size,  # DynACL's for STL-10 is the only one with a 7×7 stem
        facts=(*plan.facts, *facts),
        key_of=partial(_key_of, names=names, plain=plan.key_of),
        normalisation=normalisation if plan.channels == 3 else None,
        stem=("conv1.weight", f"bn1{route}"),
        idle=partial(_idle, route=route, plain=plan.idle),
    )


def _names(shapes: Shapes, route: str) -> dict[str, str]:
    """Key of an ordinary ResNet → key of the file, on one route."""
    names = {}
    for key in shapes:
        found = _ROUTE.search(key)
        if found is None or found[0] == route:
            name = _ROUTE.sub("", key)
            names[name.replace(".downsample.conv.", ".downsample.0.").replace(".downsample.bn.", ".downsample.1.")] = (
                key
            )
    return names


def _key_of(key: str, names: Mapping[str, str], plain: Callable[[str], str]) -> str:
    name = plain(key)
    return names.get(name, name)


def _idle(key: str, route: str, plain: Callable[[str], bool]) -> bool:
    found = _ROUTE.search(key)
    return (found is not None and found[0] != route) or _PROJECTION.match(key) is not None or plain(key)
