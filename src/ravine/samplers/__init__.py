"""Where to look: collocation points and minibatches, drawn on the device.

A sampler knows a domain and how many points each term gets; it knows nothing of objectives. `init(key)` draws the
first points; `sample(state, score)` gives the batch of the next step, and draws anew when it is due. Composition is by
value: `Redrawn(Sobol(...), every=100)`, `RAD(Sobol(...), every=20)`. Batches drawn from data say which samples they
hold (`Minibatch`).
"""

from ravine.samplers.adaptive import R3, RAD, RAR, Importance
from ravine.samplers.points import Grid, Halton, Hammersley, LatinHypercube, Sobol, Uniform
from ravine.samplers.redrawn import Marching, Redrawn
from ravine.samplers.sampler import Constant, Joint, Points, Sampler, SamplerState, Score

__all__ = [
    "R3",
    "RAD",
    "RAR",
    "Constant",
    "Grid",
    "Halton",
    "Hammersley",
    "Importance",
    "Joint",
    "LatinHypercube",
    "Marching",
    "Points",
    "Redrawn",
    "Sampler",
    "SamplerState",
    "Score",
    "Sobol",
    "Uniform",
]
