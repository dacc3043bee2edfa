"""Models: Equinox modules that act on one point. Any other callable pytree does as well."""

from ravine.models.embeddings import Compose, Fourier, Periodic, Scale
from ravine.models.hard import Constrained, Odd
from ravine.models.inverse import Inverse
from ravine.models.mlp import MLP
from ravine.models.stages import Frozen, Staged

__all__ = ["MLP", "Compose", "Constrained", "Fourier", "Frozen", "Inverse", "Odd", "Periodic", "Scale", "Staged"]
