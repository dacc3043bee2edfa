"""Models: Equinox modules that act on one point. Any other callable pytree does as well."""

from ravine.models.deeponet import DeepONet
from ravine.models.embeddings import Compose, Fourier, Periodic, Scale
from ravine.models.fno import FNO
from ravine.models.hard import Constrained, Odd
from ravine.models.mlp import MLP
from ravine.models.stages import Frozen, Staged

__all__ = [
    "FNO",
    "MLP",
    "Compose",
    "Constrained",
    "DeepONet",
    "Fourier",
    "Frozen",
    "Odd",
    "Periodic",
    "Scale",
    "Staged",
]
