"""What problem files share: how an option becomes a sampler."""

from typing import Literal

from ravine.samplers import RAD, Redrawn, Sampler

Sampling = Literal["fixed", "redraw", "rad"]


def sampled(sampler: Sampler, sampling: Sampling, *, every: int) -> Sampler:
    """`sampler` as it is, redrawn, or redrawn by residual, every so many steps."""
    if sampling == "fixed":
        return sampler
    if sampling == "redraw":
        return Redrawn(sampler, every=every)
    if sampling == "rad":
        return RAD(sampler, every=every)
    raise ValueError(f"sampling is {sampling!r}; choose from fixed, redraw, rad.")
