"""Points drawn anew by residual, as the peers do it.

Chenxi Wu et al., *A comprehensive study of non-adaptive and residual-based adaptive sampling for physics-informed
neural networks*, 2023: RAD with k = 1, c = 1. From ten times as many uniform points as are wanted, with
p ∝ |r|/mean + 1.
"""

from collections.abc import Callable

import numpy as np

from benchmarks.start import Start

CHUNK = 500  # quasi-Newton steps between two redraws, as in Urbán, Stefanou and Pons, 2025
POOL = 10


class Redraw:
    """`redraw(residual) -> points`: the interior points anew, all others as they are; `residual(pool)` is |r| there.

    On problems with fixed points it returns None, and a peer goes on undisturbed.
    """

    def __init__(self, start: Start):
        self.start, self.rng = start, np.random.default_rng(start.seed)

    def pool(self) -> np.ndarray:
        """Candidates, `POOL` times as many as points."""
        low, high = self.start.low, self.start.high
        return low + (high - low) * self.rng.random((POOL * len(self.start.points["pde"]), len(low)))

    def __call__(self, residual: Callable[[np.ndarray], np.ndarray]) -> dict[str, np.ndarray] | None:
        if not self.start.adaptive:
            return None
        pool = self.pool()
        density = np.abs(np.asarray(residual(pool)))
        density = density / density.mean() + 1
        count = len(self.start.points["pde"])
        chosen = self.rng.choice(len(pool), count, replace=False, p=density / density.sum())
        return {**self.start.points, "pde": pool[chosen]}
