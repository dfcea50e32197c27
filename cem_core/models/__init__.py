"""Architecture families. A new one is a file with `recognise(shapes, evidence)` and a row here."""

from cem_core.models import (
    convnext,
    densenet,
    dm_preact_resnet,
    dm_wide_resnet,
    he_resnet,
    jem,
    mnasnet,
    mnist_nets,
    mobilenet_v2,
    multi_bn_resnet,
    preact_resnet,
    resnet,
    shufflenet_v2,
    timm_nets,
    vgg,
    vit,
    wide_resnet,
)
from cem_core.models.family import Evidence, Plan, Shapes
from cem_core.models.model import Model, Network, Normalisation

FAMILIES = (
    preact_resnet.recognise,
    multi_bn_resnet.recognise,
    resnet.recognise,
    he_resnet.recognise,
    wide_resnet.recognise,
    dm_wide_resnet.recognise,
    dm_preact_resnet.recognise,
    jem.recognise,
    mnist_nets.recognise,
    densenet.recognise,
    vgg.recognise,
    mobilenet_v2.recognise,
    mnasnet.recognise,
    shufflenet_v2.recognise,
    convnext.recognise,
    vit.recognise,
    timm_nets.recognise_vit,
    timm_nets.recognise_convnext,
)
"""Asked in this order; the first that knows the keys is taken, and others that do are offered."""

__all__ = ["FAMILIES", "Evidence", "Model", "Network", "Normalisation", "Plan", "Shapes"]
