"""Which method: a first automatic choice from sizes and precision."""

import dataclasses

import numpy as np

from ravine._types import Batch, Vector
from ravine.objective import Objective
from ravine.optim import presets
from ravine.optim.phase import Phase, Plan, stalled


@dataclasses.dataclass(frozen=True)
class Auto:
    """Chooses phases from n, m and precision; see `auto`."""

    seconds: float

    def __call__(self, objective: Objective, theta: Vector, batch: Batch) -> Plan:
        n, m = theta.shape[0], objective.size(batch)
        return Plan((Phase(presets.ssbroyden(), until=stalled(seconds=self.seconds/6,factor=1.5), name="ssbroyden"), Phase(presets.levenberg_marquardt(), name="levenberg_marquardt")), self.seconds)


def auto(*, seconds: float) -> Auto:
    return Auto(seconds)
