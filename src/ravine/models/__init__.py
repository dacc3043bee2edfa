"""Models: Equinox modules that act on one point. Any other callable pytree does as well."""

from ravine.models.deeponet import DeepONet
from ravine.models.embeddings import Compose, Fourier, Outputs, Periodic, Scale
from ravine.models.fno import FNO
from ravine.models.gated import ModifiedMLP, PirateNet
from ravine.models.hard import Constrained, Curl, Distance, Odd, Transfinite
from ravine.models.inverse import Inverse
from ravine.models.mlp import MLP
from ravine.models.resnet import ResNet
from ravine.models.siren import SIREN
from ravine.models.stages import Frozen, Staged
from ravine.models.windows import Clocked, Windows

__all__ = [
    "FNO",
    "MLP",
    "SIREN",
    "Clocked",
    "Compose",
    "Constrained",
    "Curl",
    "DeepONet",
    "Distance",
    "Fourier",
    "Frozen",
    "Inverse",
    "ModifiedMLP",
    "Odd",
    "Outputs",
    "Periodic",
    "PirateNet",
    "ResNet",
    "Scale",
    "Staged",
    "Transfinite",
    "Windows",
]
