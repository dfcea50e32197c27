"""Architecture families. A new one is a file with `recognise(shapes, metadata)` and a row here."""

from cem_core.models import preact_resnet
from cem_core.models.family import Plan, Shapes, count
from cem_core.models.model import Model, Network

FAMILIES = (preact_resnet.recognise,)

__all__ = ["FAMILIES", "Model", "Network", "Plan", "Shapes", "count"]
