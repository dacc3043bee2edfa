"""ravine: `auto`, or one method, with what its command line sets up (threads, devices, allocator)."""

import dataclasses

import equinox as eqx
import jax
import numpy as np

import ravine as rv
from benchmarks.start import Start
from benchmarks.trace import Trace
from ravine.cli.settings import prepare


def run(start: Start, trace: Trace, method: str) -> None:
    prepare()
    problem = rv.problems.make(start.problem, **start.options)
    # The error is measured here and not in `train`, whose clock it would run on.
    blind = dataclasses.replace(problem, reference=None)
    phases = rv.auto(seconds=trace.seconds) if method == "auto" else [rv.Phase(rv.METHODS[method](), name=method)]
    grid = jax.numpy.asarray(start.grid)
    predict = eqx.filter_jit(lambda objective, theta: jax.lax.map(objective.model(theta), grid, batch_size=4096))

    compiled = 0.0

    def callback(event: rv.Event) -> None:
        nonlocal compiled
        row = event.row
        if event.kind != "record":
            return
        run = event.run()
        if not trace.rows:
            start.check(row["loss"])
            trace.compiled(lambda theta: predict(run.objective, theta), run.theta)
            compiled = row["compile_seconds"]
            return
        counted = {"steps": row["step"], "evaluations": row["evaluations"], "seconds": row["seconds"]}
        trace.record(run.theta, loss=row["loss"], **counted)
        # Later phases compile later on.
        trace.warm_up += row["compile_seconds"] - compiled
        compiled = row["compile_seconds"]

    run = rv.train(blind, phases, key=jax.random.key(start.seed), seconds=trace.seconds, callbacks=[callback])
    trace.stop = run.stop.value
    assert np.isfinite(run.loss), run.summary()
