"""The three-stage ResNets for CIFAR of He et al. 2015: ResNet-20, 32, 44, 56, 110 and 1202.

With shortcuts that have no parameters (their option A), as akamaster/pytorch_resnet_cifar10 saves them, or with
convolutions (option B), as chenyaofo/pytorch-cifar-models does. kuangliu's ResNeXt-29 has three stages too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from cem_core.models import resnet
from cem_core.models.family import Evidence, Plan, Shapes, shown

FAMILY: Final = "he_resnet"


def recognise(shapes: Shapes, evidence: Evidence) -> Plan | None:
    """A plan if the keys are those of this family, else None."""
    plan = resnet.read(shapes, evidence, family=FAMILY, stages=3, base=16)
    if plan is None:
        return None
    convolutions = any(key in shapes for key in ("layer2.0.shortcut.0.weight", "layer2.0.downsample.0.weight"))
    shortcut = "B (convolutions)" if convolutions else "A (zeros)"
    return replace(plan, facts=(*plan.facts, shown("shortcut", shortcut)))
