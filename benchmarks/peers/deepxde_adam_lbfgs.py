"""DeepXDE on PyTorch: Adam, then L-BFGS, as in its examples: a third of the time, and the rest.

Points are redrawn, where the problem asks for it, as in its examples of residual-based sampling: new anchors, compile,
train on.
"""

import os
from collections.abc import Callable

os.environ["DDE_BACKEND"] = "pytorch"  # read when DeepXDE is imported

import deepxde as dde  # pyright: ignore[reportMissingImports]
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from deepxde.optimizers.config import LBFGS_options  # pyright: ignore[reportMissingImports]

from benchmarks.points import CHUNK, Redraw
from benchmarks.start import Start
from benchmarks.torch_statements import Solution, residual, residual_at, target
from benchmarks.trace import Trace

ADAM_SHARE = 1 / 3  # of the time
STEPS = 20  # L-BFGS iterations between two looks at the clock


class Net(dde.nn.NN):
    """The solution as a network of DeepXDE's."""

    def __init__(self, solution: Solution):
        super().__init__()
        self.solution = solution

    def forward(self, inputs):
        return self.solution(inputs)


class Clock(dde.callbacks.Callback):
    """Records, and ends training at `until` seconds; `count()` is the number of evaluations so far."""

    def __init__(self, trace: Trace, until: float, count: Callable[[], int]):
        super().__init__()
        self.trace, self.until, self.count = trace, until, count

    def on_epoch_end(self):
        state = self.model.train_state
        if self.trace.due:
            with self.trace.paused():
                losses = self.model._outputs_losses(False, state.X_train, state.y_train, state.train_aux_vars)[1]
            self.trace.record(None, loss=float(np.sum(losses)), steps=state.step, evaluations=self.count())
        if self.trace.elapsed >= self.until:
            self.model.stop_training = True


def run(start: Start, trace: Trace) -> None:
    dde.config.set_default_float("float64")
    solution = Solution(start)
    others = target(start)
    conditions = [dde.icbc.PointSetBC(start.points[name], values) for name, (values, _) in others.items()]

    evaluations = 0

    def pde(z, u):
        nonlocal evaluations
        evaluations += model.net.training  # and not when it tests, or when the loss is recorded
        return residual(start, z, u)

    geometry = dde.geometry.Rectangle(start.low, start.high)
    data = dde.data.PDE(geometry, pde, conditions, anchors=start.points["pde"])
    model = dde.Model(data, Net(solution))
    weights = [0.5, *(weight / 2 for _, weight in others.values())]  # its loss is the mean of r², without the half
    model.compile("adam", lr=1e-3, loss_weights=weights, verbose=0)
    batch = data.train_next_batch()
    start.check(float(np.sum(model._outputs_losses(True, *batch)[1])))
    grid = torch.as_tensor(start.grid)
    redraw = Redraw(start)
    residual_at(start, solution, redraw.pool())
    evaluations = 0

    trace.compiled(lambda _: solution.predict(grid), None)
    every = CHUNK if start.adaptive else 10**9
    while trace.elapsed < ADAM_SHARE * trace.seconds:
        clock = Clock(trace, ADAM_SHARE * trace.seconds, lambda: evaluations)
        model.train(iterations=every, callbacks=[clock], display_every=10**9, verbose=0)
        renew(model, data, redraw, start)
    while not trace.over:
        dde.optimizers.set_LBFGS_options(gtol=0, maxiter=every)
        LBFGS_options["iter_per_step"], LBFGS_options["fun_per_step"] = STEPS, int(1.25 * STEPS)
        model.compile("L-BFGS", loss_weights=weights, verbose=0)
        before = model.train_state.step
        clock = Clock(trace, trace.seconds, lambda: evaluations)
        model.train(callbacks=[clock], display_every=10**9, verbose=0)
        if model.train_state.step == before:
            trace.stop = "L-BFGS makes no step"
            return
        renew(model, data, redraw, start)


def renew(model, data, redraw: Redraw, start: Start) -> None:
    """New points, where the problem redraws them."""
    drawn = redraw(lambda pool: residual_at(start, model.net.solution, pool))
    if drawn is not None:
        data.replace_with_anchors(drawn["pde"])
        data.test_x = None
        data.test()
