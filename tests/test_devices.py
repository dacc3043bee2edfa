"""Points shared out over devices give what one device gives; the checks run in a process with two devices."""

import json
import subprocess
import sys
import textwrap
import threading

import pytest

TIMEOUT = 300  # seconds a check

SETUP = """
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_enable_x64", True)
import ravine as rv
assert rv.use_cores(2) == 2 and jax.device_count() == 2

from ravine.pieces import blocked_kernel

problem = rv.problems.make("poisson1d", points=37, width=5)
"""

# What a process with two devices does: the code of one check after the other, each in a namespace of its own.
SERVE = """
import contextlib, io, json, sys, traceback

for line in sys.stdin:
    out, failure = io.StringIO(), ""
    try:
        with contextlib.redirect_stdout(out):
            exec(json.loads(line), {})
    except BaseException:
        failure = traceback.format_exc()
    print(json.dumps([out.getvalue(), failure]), flush=True)
"""


@pytest.fixture(scope="module")
def run():
    """`run(code)` runs a check after SETUP, in a process that the checks share, and returns what it printed."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", SERVE], **pipes) as server:

        def run(code: str) -> str:
            server.stdin.write(json.dumps(textwrap.dedent(SETUP) + textwrap.dedent(code)) + "\n")
            server.stdin.flush()
            late = threading.Timer(TIMEOUT, server.kill)  # devices may wait for each other for ever
            late.start()
            answer = server.stdout.readline()
            late.cancel()
            assert answer, f"the process with two devices ended or was ended: {server.wait()}"
            out, failure = json.loads(answer)
            assert not failure, failure[-3000:]
            return out

        yield run
        server.kill()


def test_every_part_of_a_linearisation_is_the_same_on_two_devices(run):
    run("""
    objective, theta, sampler = problem.objective(jax.random.key(0), block=8)
    batch = sampler.init(jax.random.key(1)).batch
    mesh = jax.make_mesh((2,), ("points",), (jax.sharding.AxisType.Auto,))
    v, r = jnp.cos(jnp.arange(theta.size)), jnp.sin(jnp.arange(37.0))
    parts = {
        "value": lambda lin: lin.value,
        "grad": lambda lin: lin.grad,
        "call": lambda lin: lin.objective(lin.theta, lin.batch),
        "autodiff": lambda lin: jax.grad(lin.objective)(lin.theta, lin.batch),
        "residual": lambda lin: lin.residual,
        "jvp": lambda lin: lin.jvp(v),
        "vjp": lambda lin: lin.vjp(r),
        "jacobian": lambda lin: lin.jacobian(),
        "gram": lambda lin: lin.gram(),
        "kernel": lambda lin: lin.kernel(),
        "blocked": lambda lin: blocked_kernel(lin._pieces, lin.theta, lin.objective.mesh, most=5 * 8 * lin.theta.size),
        "second": lambda lin: lin.second(v),
        "hessian": lambda lin: lin.hessian_product(v),
    }
    for name, part in parts.items():
        one = jax.jit(lambda t: part(objective.linearise(t, batch)))(theta)
        two = jax.jit(lambda t: part(objective.over(mesh).linearise(t, batch)))(theta)
        np.testing.assert_allclose(two, one, rtol=1e-12, atol=1e-12 * float(jnp.max(jnp.abs(one))), err_msg=name)
    """)


def test_a_product_that_moves_a_program_to_the_pool_changes_nothing_and_stays_outside_of_loops(run):
    run("""
    from ravine import blocks
    objective, theta, sampler = problem.objective(jax.random.key(0), block=8)
    objective = objective.over(jax.make_mesh((2,), ("points",), (jax.sharding.AxisType.Auto,)))
    batch = sampler.init(jax.random.key(1)).batch

    def descend(theta, batch, steps):
        step = lambda _, at: at - 1e-3 * objective.value_and_grad(at, batch)[1]
        return jax.lax.fori_loop(jnp.int32(0), steps, step, theta)

    def found(long):
        blocks.LONG = long
        compiled = jax.jit(lambda *args: descend(*args)).lower(theta, batch, jnp.int32(3)).compile()
        return compiled.as_text(), np.asarray(compiled(theta, batch, jnp.int32(3)))

    before, blocks.cores = blocks.LONG, lambda: 2
    try:
        (without, here), (with_it, there) = found(2**60), found(-1)
        blocks.cores = lambda: 1  # with fewer cores than devices it would stand still
        alone, _ = found(-1)
    finally:
        blocks.LONG, blocks.cores = before, rv.hardware.cores
    product = [line for line in with_it.split("ENTRY")[1].splitlines() if "s32[176,176]" in line and " dot(" in line]
    assert len(product) == 1 and with_it.count("s32[176,176]{1,0} dot(") == 1
    assert "s32[176,176]" not in without and "s32[176,176]" not in alone
    assert np.array_equal(here, there) and not np.array_equal(here, np.asarray(theta))
    """)


def test_training_on_two_devices_follows_training_on_one(run):
    run("""
    for method in (rv.adam(), rv.ssbroyden(), rv.levenberg_marquardt(), rv.spring(ridge=1e-3)):
        ends = [
            rv.train(problem, rv.Phase(method, steps=6), key=jax.random.key(0), devices=devices).theta
            for devices in (1, 2)
        ]
        np.testing.assert_allclose(np.asarray(ends[1]), np.asarray(ends[0]), rtol=1e-7, atol=1e-9)
    """)


def test_sketched_steps_and_projections_are_the_same_on_two_devices(run):
    run("""
    from ravine.optim.path import Previous
    from ravine.optim.projection import linear_leaves, project
    objective, theta, sampler = problem.objective(jax.random.key(0), block=8)
    batch = sampler.init(jax.random.key(1)).batch
    mesh = jax.make_mesh((2,), ("points",), (jax.sharding.AxisType.Auto,))
    nothing = Previous(jnp.zeros(1), None, None, jnp.zeros(()), jnp.array(False), jnp.int32(0))

    class Failed(rv.Sketched):  # asks for singular values in the branch that `auto` takes after a failure
        def __call__(self, lin, theta, state, previous, *, key):
            again = Previous(previous.s, None, None, previous.t, jnp.array(True), jnp.int32(1))
            return super().__call__(lin, theta, state, again, key=key)

    def step(direction):
        def follow(objective, theta):
            state = direction.init(objective, theta)
            path, _ = direction(objective.linearise(theta, batch), theta, state, nothing, key=jax.random.key(2))
            return jax.vmap(path)(jnp.array([0.01, 0.1]))
        return follow

    parts = {
        "both sketches": step(rv.Sketched(8)),
        "columns only": step(rv.Sketched(8, 50)),
        "kernel": step(rv.Sketched()),
        "svd": step(rv.Sketched(solver="svd")),
        "digits": step(Failed(24)),
        "projection": lambda objective, theta: project(objective, theta, batch, linear_leaves(objective)),
    }
    for name, part in parts.items():
        one, two = (jax.jit(lambda t: part(o, t))(theta) for o in (objective, objective.over(mesh)))
        np.testing.assert_allclose(two, one, rtol=1e-6, atol=1e-6 * float(jnp.max(jnp.abs(one))), err_msg=name)
    """)


def test_first_order_methods_on_two_devices_follow_those_on_one(run):
    """The points are shared out beneath masks of blocks and Hessian products as well."""
    run("""
    within = rv.block_coordinate(rv.levenberg_marquardt(acceleration=False))
    for method in (within, rv.gradient_descent(search=rv.Sharpness(products=4))):
        ends = [
            rv.train(problem, rv.Phase(method, steps=6), key=jax.random.key(0), devices=devices).theta
            for devices in (1, 2)
        ]
        np.testing.assert_allclose(np.asarray(ends[1]), np.asarray(ends[0]), rtol=1e-7, atol=1e-9)
    """)


def test_methods_for_data_follow_on_two_devices(run):
    run("""
    problem = rv.problems.make("logistic", samples=40, features=4, batch=9)
    for method in (rv.svrg(0.1), rv.saga(0.1), rv.sqn(0.1, every=2), rv.stochastic_levenberg_marquardt()):
        ends = [
            rv.train(problem, rv.Phase(method, steps=6), key=jax.random.key(0), devices=devices).theta
            for devices in (1, 2)
        ]
        np.testing.assert_allclose(np.asarray(ends[1]), np.asarray(ends[0]), rtol=1e-7, atol=1e-9)
    """)


def test_newton_methods_on_two_devices(run):
    run("""
    for method in (rv.trust_region_newton(), rv.newton_cg(), rv.hessian_free(), rv.saddle_free_newton()):
        ends = [
            rv.train(problem, rv.Phase(method, steps=4), key=jax.random.key(0), devices=devices).theta
            for devices in (1, 2)
        ]
        np.testing.assert_allclose(np.asarray(ends[1]), np.asarray(ends[0]), rtol=1e-6, atol=1e-8)
    """)


def test_two_devices_share_the_factor_of_a_dense_inverse(run):
    run("""
    import dataclasses
    from ravine.blocks import SharedRows, everywhere
    from ravine.optim.path import Previous
    from ravine.optim.quasi_newton import Broyden, self_scaled_broyden

    objective, theta, sampler = problem.objective(jax.random.key(0))
    batch, n = sampler.init(jax.random.key(1)).batch, theta.size
    mesh = jax.make_mesh((2,), ("points",), (jax.sharding.AxisType.Auto,))
    direction = Broyden(self_scaled_broyden, delay=2)

    @jax.jit
    def one(state, previous):
        lin = objective.linearise(theta, batch, value=jnp.ones(()), grad=previous.grad + previous.y)
        path, state = direction(lin, theta, state, previous, key=None)
        return state, path(jnp.ones(())), state.inverse

    @jax.jit
    def two(state, previous):
        lin = objective.over(mesh).linearise(theta, batch, value=jnp.ones(()), grad=previous.grad + previous.y)
        path, state = direction(lin, theta, everywhere(mesh, state), previous, key=None)
        return everywhere(mesh, (state, path(jnp.ones(())), state.inverse))

    random = np.random.default_rng(0)
    basis = random.normal(size=(n, n))
    hessian = basis @ basis.T / n + np.eye(n)
    # Short numbers, of which differences are exact, as they are where points are held.
    short = lambda x: np.round(np.asarray(x) * 2.0**20) / 2.0**20
    grad = short(objective.value_and_grad(theta, batch)[1])
    first = direction.init(objective, theta)
    stored = first.base.matrix.shape[0]
    factor = np.zeros((stored, n))
    factor[:n] = random.normal(size=(n, n))
    known = dataclasses.replace(
        first,
        base=SharedRows(jnp.asarray(factor)),
        identity=jnp.array(False),
        fresh=jnp.array(False),
        factored=jnp.asarray(factor) @ grad,
        product=jnp.asarray(factor.T @ factor) @ grad,
    )
    for name, state in {"identity": first, "known": known}.items():
        both = [state, everywhere(mesh, state)]
        for number in range(5):
            s = -0.1 * np.asarray(both[0].inverse @ grad)
            y = jnp.asarray(short(hessian @ s))
            previous = Previous(
                jnp.asarray(s), y, jnp.asarray(grad), 0.1 * jnp.ones(()), jnp.array(False), jnp.int32(1), jnp.int32(0)
            )
            ends = [function(kept, previous) for function, kept in zip((one, two), both)]
            both, grad = [end[0] for end in ends], grad + y
            assert [shard.data.shape for shard in both[1].base.matrix.addressable_shards] == [(stored // 2, n)] * 2
            for a, b in zip(*(end[1:] for end in ends)):
                np.testing.assert_allclose(np.asarray(b), np.asarray(a), rtol=1e-8, atol=1e-9, err_msg=name)
            assert int(both[0].count) == [1, 0, 1, 0, 1][number]  # merged with every second pair
        np.testing.assert_allclose(ends[1][2] @ y, s, rtol=1e-6, atol=1e-9)  # the secant condition
    """)


def test_a_run_on_two_devices_resumes_bit_for_bit(run, tmp_path):
    run(f"""
    import dataclasses
    problem = dataclasses.replace(problem, sampler=rv.RAD(rv.Sobol(rv.Box((0.0,), (1.0,)), pde=37), every=5))
    phase = lambda steps: rv.Phase(rv.ssbroyden(), steps=steps, name="ssbroyden")
    whole = rv.train(problem, phase(16), key=jax.random.key(0))
    half = rv.train(problem, phase(9), key=jax.random.key(0))
    half.save({str(tmp_path / "half")!r})
    half = rv.load({str(tmp_path / "half")!r}, problem=problem, phases=phase(9))
    again = rv.train(problem, phase(16), key=jax.random.key(0), resume=half)
    assert np.array_equal(np.asarray(again.theta), np.asarray(whole.theta))
    """)


@pytest.mark.slow
def test_a_device_may_wait_for_longer_than_xla_likes(run):
    """By default XLA aborts the process at some time between 55 and 100 s."""
    run("""
    import time
    from ravine.blocks import on_first

    mesh = jax.make_mesh((2,), ("points",), (jax.sharding.AxisType.Auto,))

    def late(x):
        time.sleep(100)
        return x

    def alone(kept, x):
        return kept, 2 * jax.pure_callback(late, x, x)

    assert float(jax.jit(lambda x: on_first(mesh, alone, (), x)[1])(jnp.ones(()))) == 2
    """)


@pytest.mark.slow
def test_devices_do_not_wait_for_each_other_for_ever_where_points_are_redrawn(run):
    """Before the gather of H y followed from the gradient, this stood still within half a minute."""
    run("""
    import dataclasses
    problem = rv.problems.make("burgers")
    problem = dataclasses.replace(problem, sampler=dataclasses.replace(problem.sampler, every=1))
    run = rv.train(problem, rv.Phase(rv.ssbroyden(), seconds=120), key=jax.random.key(0))
    assert run.stop is rv.Stop.SECONDS
    """)


def test_what_the_user_says_of_waiting_is_kept(run):
    out = run("""
    import os
    os.environ["XLA_FLAGS"] = "--xla_cpu_collective_call_terminate_timeout_seconds=7"
    rv.use_cores(2)
    print(os.environ["XLA_FLAGS"])
    """)
    assert out.split() == [
        "--xla_cpu_collective_call_terminate_timeout_seconds=7",
        "--xla_cpu_collective_call_warn_stuck_timeout_seconds=120",
    ]


def test_more_devices_than_there_are_is_refused(run):
    out = run("""
    try:
        rv.train(problem, rv.Phase(rv.adam(), steps=1), key=jax.random.key(0), devices=3)
    except ValueError as error:
        print(error)
    """)
    assert "devices=3, but JAX sees 2" in out
    assert "use_cores" in out


def test_constrained_and_grouped_parameters_on_two_devices(run):
    run("""
    import dataclasses
    first = lambda model: jax.tree.leaves(model)[0]
    bounded = dataclasses.replace(
        problem, model=lambda key: rv.bounded(problem.model(key), first, -9.0, 9.0), name=""
    )
    labels = lambda params: jax.tree.map(lambda leaf: "wide" if leaf.ndim == 2 else "narrow", params)
    directions = {"wide": rv.ssbroyden().direction, "narrow": rv.lbfgs().direction}
    for method in (rv.levenberg_marquardt(), rv.Optimizer(rv.Grouped(directions, labels), rv.Wolfe())):
        ends = [
            rv.train(bounded, rv.Phase(method, steps=5), key=jax.random.key(0), devices=devices).theta
            for devices in (1, 2)
        ]
        np.testing.assert_allclose(ends[1], ends[0], rtol=1e-6, atol=1e-8)
    """)


def test_weights_on_two_devices_follow_those_on_one(run):
    """Traces, losses at points, and gradients of terms are sums over devices too."""
    run("""
        import dataclasses
        soft = rv.problems.make("poisson5d", points=33, width=5, depth=1, sampling="fixed")
        phase = rv.Phase(rv.conflict_free(), steps=4)
        for weights in (rv.NTKTrace(every=2), rv.ResidualAttention(rate=0.1)):
            made = dataclasses.replace(soft, weights=weights)
            runs = (rv.train(made, phase, key=jax.random.key(0), devices=count) for count in (1, 2))
            one, two = (run.position.carry for run in runs)
            np.testing.assert_allclose(one.theta, two.theta, rtol=1e-9)
            for name in ("pde", "bc"):
                np.testing.assert_allclose(one.weights.weights[name], two.weights.weights[name], rtol=1e-9)
    """)


def test_losses_with_curvature_of_their_own_do_not_exhaust_the_threads(run):
    # A batch of 10×10 eigenproblems a device: jaxlib would wait for its own pool for ever (`one_by_one_eigh`).
    run("""
    digits = rv.problems.make("digits", batch=None, width=4)
    ends = [
        rv.train(digits, rv.Phase(rv.levenberg_marquardt(), steps=3), key=jax.random.key(0), devices=devices).theta
        for devices in (1, 2)
    ]
    np.testing.assert_allclose(ends[1], ends[0], rtol=1e-7, atol=1e-9)
    """)
