"""PyTorch: its own L-BFGS with the strong Wolfe search, defaults otherwise. New points start a new memory."""

import torch  # pyright: ignore[reportMissingImports]

from benchmarks.points import CHUNK, Redraw
from benchmarks.start import Start
from benchmarks.torch_statements import Solution, loss, residual_at, tensors
from benchmarks.trace import Trace

STEPS = 20  # iterations in one call of `step`: its default


def run(start: Start, trace: Trace) -> None:
    torch.set_default_dtype(torch.float64)
    solution, points = Solution(start), tensors(start.points)
    start.check(float(loss(start, solution, points)))
    grid = torch.as_tensor(start.grid)
    evaluations = 0

    def fresh_optimizer():
        return torch.optim.LBFGS(
            solution.parameters(),
            max_iter=STEPS,
            tolerance_grad=0.0,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )

    def closure():
        nonlocal evaluations
        evaluations += 1
        optimizer.zero_grad()
        value = loss(start, solution, points)
        value.backward()
        return value

    redraw = Redraw(start)
    optimizer = fresh_optimizer()
    # Nothing is compiled, but the first calls load and allocate.
    closure()
    residual_at(start, solution, redraw.pool())
    evaluations = 0

    trace.compiled(lambda _: solution.predict(grid), None)
    steps, stuck = 0, False
    while not trace.over:
        before = [parameter.detach().clone() for parameter in solution.parameters()]
        value = optimizer.step(closure)
        moved = any(not torch.equal(a, b) for a, b in zip(before, solution.parameters(), strict=True))
        made = optimizer.state_dict()["state"][0]["n_iter"]
        steps_now = steps + made
        if trace.due:
            with trace.paused():
                value = loss(start, solution, points)
            trace.record(None, loss=float(value), steps=steps_now, evaluations=evaluations)
        if not moved:
            if stuck:
                trace.stop = "L-BFGS makes no step, not even with a new memory"
                return
            steps, optimizer = steps_now, fresh_optimizer()
        stuck = not moved
        if start.adaptive and made >= CHUNK:
            drawn = redraw(lambda pool: residual_at(start, solution, pool))
            assert drawn is not None
            points, steps, optimizer = tensors(drawn), steps_now, fresh_optimizer()
