"""Operator learning: data in closed form against quadrature, formulations against dense loops, messages."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_bvp, solve_ivp

import cases
import ravine as rv
from ravine.models import FNO, MLP, DeepONet
from ravine.models.fno import SpectralConvolution
from ravine.problems import operator_data
from ravine.problems.operator_data import Field, OperatorData

SMALL = {"functions": 6, "tests": 3, "sensors": 7, "queries": 5, "width": 4, "depth": 1, "basis": 3}


# --------------------------------------------------------------------------------------------------------------- data


@pytest.mark.parametrize("length", [0.1, 0.2, 0.5])
def test_the_field_has_the_covariance_it_says(length):
    """That of the series is the Gaussian to rounding; that of many draws to sampling error."""
    omega, scale = operator_data.modes(length)
    distance = np.linspace(0, 1, 41)
    exact = np.exp(-(distance**2) / (2 * length**2))
    np.testing.assert_allclose(np.cos(np.outer(distance, omega)) @ scale**2, exact, atol=1e-12)
    values = Field.draw(20_000, length, np.random.default_rng(0))(distance)
    assert np.abs(np.cov(values.T)[0] - exact).max() < 0.04
    assert np.abs(values.mean(axis=0)).max() < 0.04


def one_field(seed: int = 3) -> Field:
    return Field.draw(1, 0.2, np.random.default_rng(seed))


def test_antiderivative_agrees_with_an_integrator():
    field, x = one_field(), np.linspace(0, 1, 23)
    found = solve_ivp(
        lambda at, u: field(np.array([at]))[0], (0, 1), [0.0], t_eval=x, method="DOP853", rtol=1e-12, atol=1e-13
    )
    np.testing.assert_allclose(field.integral(x), found.y, atol=1e-11)


def test_poisson_agrees_with_a_boundary_value_solver():
    field, x = one_field(), np.linspace(0, 1, 23)
    found = solve_bvp(
        lambda at, u: np.stack([u[1], -field(at)[0]]),
        lambda a, b: np.array([a[0], b[0]]),
        x,
        np.zeros((2, 23)),
        tol=1e-9,
    )
    _, data = operator_data.poisson(2, 1, sensors=5, queries=23)
    train = Field.draw(2, 0.2, operator_data.sources(0)[0])
    np.testing.assert_allclose(data.inputs, train(np.linspace(0, 1, 5)))
    u = x * field.second_integral(np.ones(1)) - field.second_integral(x)
    np.testing.assert_allclose(u[0], found.sol(x)[0], atol=1e-8)
    np.testing.assert_allclose(data.outputs[:, [0, -1]], 0, atol=1e-14)


def test_data_are_drawn_from_their_seed():
    few, many, other = (operator_data.antiderivative(n, 4, seed=s)[1] for n, s in ((3, 0), (9, 0), (3, 1)))
    np.testing.assert_array_equal(few.test_inputs, many.test_inputs)
    assert not np.allclose(few.inputs, other.inputs)
    assert not np.allclose(few.inputs[:3], few.test_inputs[:3])


@pytest.mark.parametrize("change,message", [
    ({"outputs": np.ones((3, 5))}, r"inputs and outputs need one row a function each, but have \[\(4,\), \(3,\)\]"),
    ({"test_inputs": np.ones((2, 6))}, r"rows of inputs have shape \(7,\), but those of test_inputs \(6,\)"),
    ({"outputs": np.ones(())}, r"inputs and outputs need one row a function each"),
    ({"inputs": np.where(np.arange(28).reshape(4, 7) == 15, np.nan, 1.0)}, "inputs has .* 1 of 4 rows; .* row 2"),
])  # fmt: skip
def test_data_that_cannot_be_used(change, message):
    data = OperatorData(np.ones((4, 7)), np.ones((4, 5)), np.ones((2, 7)), np.ones((2, 5)))
    assert operator_data.check(data) is data
    with pytest.raises(ValueError, match=message):
        operator_data.check(data._replace(**change), "file.npz")


# ------------------------------------------------------------------------------------------------ model, formulation


def net(key=cases.KEY, sensors=7, basis=3):
    one, other = jax.random.split(key)
    return DeepONet(MLP(sensors, basis, width=4, depth=1, key=one), MLP(1, basis, width=4, depth=1, key=other))


def test_deeponet_is_a_sum_of_products():
    model = eqx.tree_at(lambda m: m.offset, net(), jnp.asarray(0.7))
    a, y = jnp.linspace(-1, 2, 7), jnp.array([[0.1], [0.5], [0.8]])
    expected = [0.7 + float(sum(b * t for b, t in zip(model.branch(a), model.trunk(at), strict=True))) for at in y]
    np.testing.assert_allclose(model(a, y), expected, rtol=1e-13)
    np.testing.assert_allclose(model(a, y[1]), expected[1], rtol=1e-13)


def test_deeponet_whose_networks_do_not_fit():
    model = DeepONet(MLP(7, 3, width=4, key=cases.KEY), MLP(1, 2, width=4, key=cases.KEY))
    with pytest.raises(ValueError, match=r"branch gives \(3,\) numbers and the trunk \(2,\)"):
        model(jnp.ones(7), jnp.zeros(1))


@pytest.mark.parametrize("relative", [False, True])
def test_the_loss_is_a_mean_over_functions(relative):
    """Shared query points, those of each function, and a model that needs none: the same, equal to a loop."""
    rng = np.random.default_rng(0)
    a, y, u = rng.normal(size=(6, 7)), rng.uniform(size=(5, 1)), rng.normal(size=(6, 5))
    model = net()
    loss = 0.0
    for function, values in zip(a, u, strict=True):
        found = np.array([model(jnp.asarray(function), jnp.asarray(at)) for at in y])
        loss += np.sum((found - values) ** 2) / (np.sum(values**2) if relative else 5) / 2 / 6
    objective, theta = rv.Objective.from_terms([rv.operator("data", y, relative=relative)], model)
    assert float(objective(theta, {"data": (jnp.asarray(a), jnp.asarray(u))})) == pytest.approx(loss, rel=1e-12)
    assert objective.size({"data": (jnp.asarray(a), jnp.asarray(u))}) == 30
    triple = (jnp.asarray(a), jnp.asarray(np.tile(y, (6, 1, 1))), jnp.asarray(u))
    objective, theta = rv.Objective.from_terms([rv.operator("data", relative=relative)], model)
    assert float(objective(theta, {"data": triple})) == pytest.approx(loss, rel=1e-12)


def test_query_points_are_computed_once_for_all_functions():
    """The products of trunk layers in the compiled loss have one row a query point, not one a pair."""
    a, u = jnp.ones((11, 7)), jnp.ones((11, 5))
    objective, theta = rv.Objective.from_terms([rv.operator("data", jnp.ones((5, 1)))], net())
    text = str(jax.make_jaxpr(lambda at: objective(at, {"data": (a, u)}))(theta))
    shapes = {line.split(":")[1].split()[0] for line in text.splitlines() if " round[" in line}  # one in each tanh
    assert shapes == {"f64[11,4]", "f64[5,4]"}


def test_outputs_of_another_shape():
    objective, theta = rv.Objective.from_terms([rv.operator("data", np.ones((4, 1)))], net())
    with pytest.raises(ValueError, match=r"'data' compares .* \(4,\) with a function of shape \(5,\)"):
        objective(theta, {"data": (jnp.ones((2, 7)), jnp.ones((2, 5)))})
    term = rv.operator_residual("ode", lambda u, y, v: u(y) - v, np.ones((4, 1)))
    objective, theta = rv.Objective.from_terms([term], net())
    with pytest.raises(ValueError, match=r"'ode' has 4 query points, but values of shape \(5,\)"):
        objective(theta, {"ode": (jnp.ones((2, 7)), jnp.ones((2, 5)))})


def test_the_residual_of_the_exact_operator_vanishes():
    """Trapezoidal weights integrate f; a network in their place does not."""
    module = rv.problems.make("antiderivative_physics", functions=4, tests=2, sensors=60, width=3, depth=1, basis=2)
    (term,) = module.terms
    field = Field.draw(4, 0.2, operator_data.sources(0)[0])
    omega = jnp.asarray(field.omega)

    def exact(coefficients, y):
        c0, cosine, sine = coefficients[0], coefficients[1 : 1 + omega.size], coefficients[1 + omega.size :]
        return c0 * y[0] + jnp.sum(cosine * jnp.sin(omega * y) / omega + sine * (1 - jnp.cos(omega * y)) / omega)

    values = field(np.linspace(0, 1, 60))
    for row in range(2):
        a = jnp.asarray(np.concatenate([field.cosine[row], field.sine[row]]))
        assert np.abs(term.features(exact, (a, jnp.asarray(values[row])))).max() < 1e-12
        assert np.abs(term.features(exact, (a, jnp.asarray(values[row + 1])))).max() > 1e-2


def test_operator_reference_is_the_mean_relative_error():
    functions, points = np.array([[1.0], [2.0]]), np.array([[0.0], [1.0], [2.0]])
    values = functions * points.T + 1
    exact = lambda a, y: a[0] * y[:, 0] + 1
    reference = rv.OperatorReference(functions, values, points)
    assert float(reference.error(exact, jnp.float64)) == 0.0
    # The second function alone is off, by half of itself.
    wrong = lambda a, y: exact(a, y) * jnp.where(a[0] > 1.5, 1.5, 1.0)
    assert float(reference.error(wrong, jnp.float64)) == pytest.approx(0.25)
    whole = rv.OperatorReference(functions, functions * 3)
    assert float(whole.error(lambda a: 6 * a, jnp.float64)) == pytest.approx(1.0)
    with pytest.raises(ValueError, match=r"do not fit functions of shape \(2, 1\) and points of shape \(4, 1\)"):
        rv.OperatorReference(functions, values, np.zeros((4, 1)))


# ----------------------------------------------------------------------------------------------------------- problems


def test_the_initial_condition_of_the_operator_without_labels_holds_by_construction():
    problem = rv.problems.make("antiderivative_physics", functions=2, tests=2, sensors=9, width=3, depth=1, basis=2)
    assert float(problem.model(cases.KEY)(jnp.ones(9), jnp.zeros(1))) == 0.0


def test_minibatches_draw_functions():
    """The mean over an epoch of the gradients of minibatches is the gradient of all functions."""
    whole, parts = (rv.problems.make("antiderivative", **SMALL, batch=batch) for batch in (None, 2))
    objective, theta, sampler = whole.objective(cases.KEY)
    grad = jax.jit(lambda batch: objective.value_and_grad(theta, batch)[1])
    full = grad(sampler.init(cases.KEY).batch)
    _, _, sampler = parts.objective(cases.KEY)
    state, total = sampler.init(cases.KEY), 0
    for _ in range(3):
        batch, state = sampler.sample(state)
        total = total + grad(batch.points) / 3
    np.testing.assert_allclose(total, full, rtol=1e-11)


def test_without_labels_the_operator_is_found():
    problem = rv.problems.make(
        "antiderivative_physics", functions=60, tests=10, sensors=15, length=1.0, width=10, depth=1, basis=5
    )
    run = rv.train(problem, rv.Phase(rv.lbfgs(), steps=400), key=cases.KEY)
    assert run.error < 0.05, run.summary()


# ------------------------------------------------------------------------------------------------ solvers and storage


def relative(found, exact):
    """The largest relative L2 difference of a row."""
    norm = lambda rows: np.linalg.norm(rows.reshape(len(rows), -1), axis=1)
    return (norm(found - exact) / norm(exact)).max()


def test_darcy_has_converged_and_satisfies_the_equation():
    coarse, fine = (operator_data.darcy(3, 1, refine=refine) for refine in (1, 4))
    np.testing.assert_array_equal(coarse.inputs, fine.inputs)
    assert relative(coarse.outputs, fine.outputs) < 2e-5
    # Halving the mesh of the extrapolated solution gains more than second order.
    assert (
        relative(operator_data.darcy(3, 1, refine=2).outputs, fine.outputs) < relative(coarse.outputs, fine.outputs) / 5
    )
    # With a = 1 the flow is Poisson's, whose value in the middle is a known number (f = 10).
    omega, scale = operator_data.modes(0.3)
    nothing = np.zeros((1, *(2 * len(omega) - 1,) * 2))
    once, twice = (operator_data._darcy(nothing, omega, scale, cells)[0, cells // 2, cells // 2] for cells in (32, 64))
    assert (4 * twice - once) / 3 == pytest.approx(0.7367135, abs=1e-6)


def test_darcy_by_a_direct_solver():
    """The conjugate gradients against the matrix itself, made of unit vectors."""
    rng, (omega, scale), cells = np.random.default_rng(2), operator_data.modes(0.5), 8
    waves, middle, inside = (
        rng.standard_normal((1, *(2 * len(omega) - 1,) * 2)),
        (np.arange(8) + 0.5) / 8,
        np.arange(1, 8) / 8,
    )
    along, across = (
        np.exp(operator_data._plane(waves, omega, scale, *axes))[0] for axes in ((middle, inside), (inside, middle))
    )
    matrix = np.zeros((49, 49))
    for i in range(7):
        for j in range(7):
            sides = (
                (i - 1, j, along[i, j]),
                (i + 1, j, along[i + 1, j]),
                (i, j - 1, across[i, j]),
                (i, j + 1, across[i, j + 1]),
            )
            for other, across_other, weight in sides:
                matrix[7 * i + j, 7 * i + j] += weight * 64
                if 0 <= other < 7 and 0 <= across_other < 7:
                    matrix[7 * i + j, 7 * other + across_other] -= weight * 64
    exact = np.linalg.solve(matrix, np.full(49, 10.0)).reshape(7, 7)
    np.testing.assert_allclose(operator_data._darcy(waves, omega, scale, cells)[0, 1:-1, 1:-1], exact, rtol=1e-8)


@pytest.mark.parametrize("viscosity", [0.1, 0.02])
def test_burgers_has_converged(viscosity):
    once, twice = (
        operator_data.burgers(4, 1, viscosity=viscosity, points=points, steps=steps)
        for points, steps in ((256, None), (512, round(40 / viscosity)))
    )
    np.testing.assert_allclose(once.inputs, twice.inputs, atol=1e-13)
    assert relative(once.outputs, twice.outputs) < 1e-6
    # The mean is conserved, the energy is not.
    np.testing.assert_allclose(once.outputs.mean(axis=1), once.inputs.mean(axis=1), atol=1e-13)
    assert (once.outputs.var(axis=1) < once.inputs.var(axis=1)).all()


def test_burgers_agrees_with_an_integrator():
    """The Fourier coefficients by an implicit Runge–Kutta method, from the same start."""
    data = operator_data.burgers(1, 1, grid=16, viscosity=0.1)
    k = np.fft.fftfreq(64, 1 / 64)

    def slope(t, u):
        c = np.fft.fft(u)
        squares = np.fft.fft(u**2)
        return np.fft.ifft(-0.1 * (2 * np.pi * k) ** 2 * c - 1j * np.pi * k * squares).real

    start = np.fft.irfft(np.pad(np.fft.rfft(data.inputs[0]), (0, 24)), 64) * 4
    found = solve_ivp(slope, (0, 1), start, method="BDF", rtol=1e-9, atol=1e-11).y[:, -1]
    np.testing.assert_allclose(found[::4], data.outputs[0], atol=1e-6)


def test_burgers_that_cannot_be_solved():
    with pytest.raises(ValueError, match=r"5 steps and 64 points are too few for a viscosity of 0\.001"):
        operator_data.burgers(2, 1, grid=16, viscosity=0.001, points=64, steps=5)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("RAVINE_NO_CACHE", raising=False)
    return tmp_path / "ravine" / "operators"


def test_data_are_made_once(cache, monkeypatch):
    made = []

    def darcy(functions, tests, **settings):
        made.append(settings)
        return operator_data.darcy(functions, tests, **settings)

    first = operator_data.stored(darcy, 2, 1, grid=5)
    again = operator_data.stored(darcy, 2, 1, grid=5)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    operator_data.stored(darcy, 2, 1, grid=6)
    assert made == [{"grid": 5}, {"grid": 6}]
    assert sorted(path.name for path in cache.iterdir()) == ["darcy-v1-2-1-5.npz", "darcy-v1-2-1-6.npz"]
    monkeypatch.setenv("RAVINE_NO_CACHE", "1")
    operator_data.stored(darcy, 2, 1, grid=5)
    assert len(made) == 3


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert operator_data.stored(operator_data.darcy, 2, 1, grid=5).inputs.shape == (2, 5, 5)


def broken(path, kind):
    with np.load(path) as file:
        arrays = dict(file)
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:300])
        return
    if kind == "text":
        path.write_text("no arrays")
        return
    if kind == "lacking":
        del arrays["outputs"]
    if kind == "shapes":
        arrays["test_inputs"] = arrays["test_inputs"][:, :4]
    if kind == "fewer":
        arrays["inputs"], arrays["outputs"] = arrays["inputs"][:1], arrays["outputs"][:1]
    if kind == "nan":
        arrays["outputs"][1, 2, 2] = np.nan
    np.savez(path, **arrays)


@pytest.mark.parametrize("kind,message", [
    ("cut", "is damaged"),
    ("text", "is damaged"),
    ("lacking", "has no array 'outputs"),
    ("shapes", r"rows of inputs have shape \(5, 5\), but those of test_inputs \(4, 5\)"),
    ("fewer", "holds 1 functions and 1 tests, but should hold 2 and 1"),
    ("nan", "outputs has numbers that are not finite in 1 of 2 rows; the first is row 1"),
])  # fmt: skip
def test_a_data_file_that_cannot_be_used(cache, kind, message):
    operator_data.stored(operator_data.darcy, 2, 1, grid=5)
    (path,) = cache.iterdir()
    broken(path, kind)
    with pytest.raises(ValueError, match=message) as error:
        operator_data.stored(operator_data.darcy, 2, 1, grid=5)
    assert f"rm '{path}'" in str(error.value)


# ---------------------------------------------------------------------------------------------------------------- FNO


def test_a_spectral_convolution_is_a_convolution():
    """With weights that are the transform of a kernel of low frequencies, it is the periodic sum, in two dimensions."""
    n, kept = 9, (3, 3)
    layer = SpectralConvolution(2, 1, kept, key=cases.KEY)
    v = np.asarray(jax.random.normal(cases.KEY, (2, n, n)))
    frequencies = np.fft.fftfreq(n, 1 / n).astype(int)
    spectrum = np.zeros((2, n, n), complex)
    weights = (np.asarray(layer.real) + 1j * np.asarray(layer.imaginary))[0]
    rows = [0, 1, 2, -3, -2, -1]
    for i, row in enumerate(rows):
        for column in range(3):
            spectrum[:, row, column] = weights[:, i, column]
            if column:  # those of a real function come in pairs
                spectrum[:, -row, -column] = np.conj(weights[:, i, column])
    hat = np.fft.fft2(v) * spectrum
    # On the axis of frequency zero, what is no conjugate pair is made one, as irfft does.
    hat = hat.sum(axis=0)
    axis = hat[:, 0].copy()
    hat[:, 0] = (axis + np.conj(axis[-frequencies])) / 2
    np.testing.assert_allclose(layer(jnp.asarray(v))[0], np.fft.ifft2(hat).real, atol=1e-12)


@pytest.mark.parametrize("modes,coarse,fine", [((3,), (16,), (48,)), ((2, 3), (12, 12), (24, 36))])
def test_an_fno_of_a_periodic_function_does_not_depend_on_the_grid(modes, coarse, fine):
    """The layers act on low modes alone, so that they commute with sampling (coordinates left out)."""
    layer = SpectralConvolution(1, 1, modes, key=cases.KEY)

    def field(grid):
        axes = np.meshgrid(*(np.arange(n) / n for n in grid), indexing="ij")
        return jnp.asarray(sum(np.sin(2 * np.pi * (axis + 0.1 * i)) + 0.3 for i, axis in enumerate(axes)))[None]

    every = (slice(None), *(slice(None, None, f // c) for c, f in zip(coarse, fine, strict=True)))
    np.testing.assert_allclose(layer(field(coarse)), layer(field(fine))[every], atol=1e-12)


def test_fno_has_the_published_size_and_real_parameters():
    net = eqx.filter_eval_shape(lambda: FNO((12, 12), width=32, key=cases.KEY))
    leaves = [leaf for leaf in jax.tree.leaves(net) if hasattr(leaf, "size")]
    spectral = 4 * 2 * 32 * 32 * 24 * 12
    assert sum(leaf.size for leaf in leaves) == spectral + 4 * (32 * 32 + 32) + 32 * 4 + 128 * 33 + 129
    assert all(leaf.dtype == jnp.float64 for leaf in leaves)


def test_padding_is_cut_off_again():
    """Without layers that mix points (their spectral weights zero), padding changes nothing."""
    v = jax.random.normal(cases.KEY, (9,))
    plain, padded = (FNO((2,), width=3, depth=2, padding=padding, key=cases.KEY) for padding in (0, 5))
    silent = lambda net: eqx.tree_at(lambda m: m.spectral, net, jax.tree.map(jnp.zeros_like, net.spectral))
    forward = eqx.filter_jit(lambda net, a: net(a))
    np.testing.assert_allclose(forward(silent(plain), v), forward(silent(padded), v), rtol=1e-12)
    assert np.abs(forward(plain, v) - forward(padded, v)).max() > 1e-3


def test_several_inputs_at_a_grid_point():
    net = FNO((2,), width=3, depth=1, inputs=2, key=cases.KEY)
    assert eqx.filter_eval_shape(net, jnp.ones((8, 2))).shape == (8,)


@pytest.mark.parametrize("make,message", [
    (lambda: FNO((), key=cases.KEY), "^FNO: modes"),
    (lambda: FNO((2,), width=0, key=cases.KEY), "^FNO: modes"),
    (lambda: FNO((4,), width=2, depth=1, key=cases.KEY)(jnp.ones(5)), "grid of 5 points cannot carry 4 modes"),
    (lambda: FNO((3, 2), width=2, depth=1, key=cases.KEY)(jnp.ones((5, 8))), "5 × 8 points cannot carry 3 × 2 modes"),
    (lambda: FNO((2, 2), width=2, depth=1, key=cases.KEY)(jnp.ones(8)), r"shape \(8,\), but the modes are those of 2"),
])  # fmt: skip
def test_sizes_of_an_fno_that_make_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: jnp.asarray(0.0) if make() is None else 0.0)


# ---------------------------------------------------------------------------------------------------- automatic choice


def plan(name, **options):
    problem = rv.problems.make(name, **options)
    objective, theta, sampler = problem.objective(cases.KEY)
    return rv.auto(seconds=60.0)(objective, theta, sampler.init(cases.KEY).batch)


def names(found):
    return [phase.name for phase in found.phases]


def test_operators_are_begun_by_soap():
    """Full batch: SOAP, then L-BFGS, which keeps memory of one loss. Minibatches: SOAP alone, in stages."""
    sizes = {"functions": 400, "tests": 2, "sensors": 40, "width": 40}
    whole = plan("antiderivative", **sizes)
    assert names(whole) == ["soap", "lbfgs"]
    assert whole.phases[0].until is not None
    assert whole.phases[-1].until is None
    parts = plan("antiderivative", **sizes, batch=300)
    assert names(parts) == 5 * ["soap"]  # one rate after the other
    assert "Minibatches of data" in parts.reason


def test_soap_is_too_dear_for_wide_layers_and_few_functions():
    found = plan("antiderivative", functions=3, tests=2, queries=3, width=400, depth=3, batch=2)
    assert names(found) == 5 * ["adam"]
    assert "a step of SOAP would cost" in found.reason
