"""What problem files share: how an option becomes a sampler."""

from typing import Literal

from ravine.samplers import (
    R3,
    RAD,
    RAR,
    Grid,
    Halton,
    Hammersley,
    Importance,
    LatinHypercube,
    Marching,
    Points,
    Redrawn,
    Sampler,
    Sobol,
    Uniform,
)

Sampling = Literal[
    "fixed", "redraw", "departs", "rad", "rar", "rard", "r3", "importance", "marching",
    "grid", "uniform", "latin", "sobol", "halton", "hammersley",
]  # fmt: skip
KINDS = {
    "grid": Grid,
    "uniform": Uniform,
    "latin": LatinHypercube,
    "sobol": Sobol,
    "halton": Halton,
    "hammersley": Hammersley,
}


def sampled(sampler: Points, sampling: Sampling, *, every: int, pool: int = 4) -> Sampler:
    """`sampler` as it is, with its points placed otherwise, or drawn anew in some way every so many steps.

    - "fixed": as it is; "grid", "uniform", "latin", "sobol", "halton", "hammersley": points of that kind, fixed.
    - "redraw": always; "departs": when the loss on independent points is three times that on the points.
    - "rad", "r3", "importance": by residual; "rar", "rard": half of the points, then a fiftieth more each time.
    - "marching": at five times of growing reach, for equations in time.

    `pool`: how many times as many points "rad" and "importance" draw from.
    """
    if sampling == "fixed":
        return sampler
    if sampling in KINDS:
        return KINDS[sampling](sampler.domain, **dict(sampler.counts))
    add = max(1, max(count for _, count in sampler.counts) // 50)
    made = {
        "redraw": lambda: Redrawn(sampler, every=every),
        "departs": lambda: Redrawn(sampler, every=every, departs=3.0),
        "rad": lambda: RAD(sampler, every=every, pool=pool),
        "r3": lambda: R3(sampler, every=every),
        "importance": lambda: Importance(sampler, every=every, pool=pool),
        "rar": lambda: RAR(sampler, every=every, add=add),
        "rard": lambda: RAR(sampler, every=every, add=add, power=2.0),
        "marching": lambda: Marching(sampler, every=every),
    }
    if sampling not in made:
        raise ValueError(f"sampling is {sampling!r}; choose from fixed, {', '.join((*made, *KINDS))}.")
    return made[sampling]()
