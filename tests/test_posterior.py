"""The linearised posterior against dense formulas, SciPy's `curve_fit`, and Monte Carlo."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import curve_fit

import ravine as rv

RNG = np.random.default_rng(0)


class Linear(eqx.Module):
    """x ↦ w·x."""

    w: jax.Array

    def __call__(self, x):
        return jnp.dot(self.w, x)


def law(u, x):
    """w·x = 1: an equation that is linear in w."""
    return u(x) - 1.0


def weights(model):
    return model.w


def linear(samples=7, others=4, *, weight=3.0):
    """Objective, batch, and the two matrices of a linear model with data and an equation."""
    a, b = RNG.normal(size=(samples, 3)), RNG.normal(size=(others, 3))
    terms = (rv.residual("law", law, weight=weight), rv.supervised("data", weight=0.5))
    objective, theta = rv.Objective.from_terms(terms, Linear(jnp.zeros(3)))
    return objective, theta, a, b, {"data": (jnp.asarray(a), jnp.zeros(samples)), "law": jnp.asarray(b)}


def minimiser(a, b, y, z, *, weight=3.0):
    """argmin ½·0.5·mean (a w − y)² + ½·weight·mean (b w − z)², for columns y, z, by the normal equations."""
    left = 0.5 * a.T @ a / len(a) + weight * b.T @ b / len(b)
    return np.linalg.solve(left, 0.5 * a.T @ y / len(a) + weight * b.T @ z / len(b))


@pytest.mark.parametrize("kind", ["posterior", "sampling"])
@pytest.mark.parametrize("prior", [np.inf, 0.3])
def test_linear_model_against_the_dense_formula(kind, prior):
    objective, theta, a, b, batch = linear()
    found = rv.posterior(objective=objective, theta=theta, batch=batch, noise=0.2, kind=kind, prior=prior)
    # In units of the noise: a row of the data has precision 1/σ², one of the law as much as its weight says.
    s = 0.2**2 * 0.5 / 7
    data, law_rows = 0.5 * a.T @ a / 7 / s, 3.0 * b.T @ b / 4 / s
    inverse = np.linalg.inv(data + law_rows + np.eye(3) / prior**2)
    exact = inverse if kind == "posterior" else inverse @ data @ inverse
    np.testing.assert_allclose(found.covariance(weights), exact, rtol=1e-9)
    np.testing.assert_allclose(found.std(weights) ** 2, np.diag(exact), rtol=1e-9)
    one = lambda model: model.w[0] - 2 * model.w[2]
    v = np.array([1.0, 0.0, -2.0])
    np.testing.assert_allclose(found.std(one) ** 2, v @ exact @ v, rtol=1e-9)


def test_sampling_covariance_is_that_of_many_data_sets():
    objective, theta, a, b, batch = linear()
    found = rv.posterior(objective=objective, theta=theta, batch=batch, noise=0.2, kind="sampling")
    runs = 40_000
    w = minimiser(a, b, 0.2 * RNG.normal(size=(7, runs)), np.ones((4, runs)))
    exact = np.cov(w)
    # The error of an empirical covariance of Gaussians is about √(2/runs) of the variances.
    assert np.abs(found.covariance(weights) - exact).max() < 5 * np.sqrt(2 / runs) * np.diag(exact).max()
    assert np.diag(exact).max() > 2 * np.diag(exact).min()


def test_posterior_is_the_law_of_data_and_equation_together():
    """Drawing both with the precisions that the weights stand for gives minimisers with the posterior's covariance."""
    objective, theta, a, b, batch = linear()
    found = rv.posterior(objective=objective, theta=theta, batch=batch, noise=0.2)
    runs, doubt = 40_000, 0.2 * np.sqrt((0.5 / 7) / (3.0 / 4))
    w = minimiser(a, b, 0.2 * RNG.normal(size=(7, runs)), 1 + doubt * RNG.normal(size=(4, runs)))
    exact = np.cov(w)
    assert np.abs(found.covariance(weights) - exact).max() < 5 * np.sqrt(2 / runs) * np.diag(exact).max()


class Decay(eqx.Module):
    """a·exp(−b x)."""

    a: jax.Array
    b: jax.Array

    def __call__(self, x):
        return self.a * jnp.exp(-self.b * x[0])


def both(model):
    return jnp.stack([model.a, model.b])


@pytest.mark.parametrize("noise", [0.05, None])
def test_nonlinear_fit_with_positive_parameters_against_scipy(noise):
    x = np.linspace(0, 2, 25)
    y = 2.0 * np.exp(-1.5 * x) + 0.05 * RNG.normal(size=25)
    best, exact = curve_fit(
        lambda x, a, b: a * np.exp(-b * x), x, y, (1.0, 1.0),
        sigma=None if noise is None else np.full(25, noise), absolute_sigma=noise is not None, ftol=1e-14, xtol=1e-14,
    )  # fmt: skip
    start = rv.positive(Decay(*map(jnp.asarray, best)), lambda m: (m.a, m.b))
    objective, theta = rv.Objective.from_terms((rv.supervised("data"),), start)
    batch = {"data": (jnp.asarray(x[:, None]), jnp.asarray(y))}
    found = rv.posterior(objective=objective, theta=theta, batch=batch, noise=noise)
    np.testing.assert_allclose(found.covariance(both), exact, rtol=1e-5)
    assert float(found.freedom) == pytest.approx(2.0)
    known = found.confidence(both, level=0.6827)
    np.testing.assert_allclose(known.high - known.value, np.sqrt(np.diag(exact)), rtol=1e-4)
    np.testing.assert_allclose(known.value, best, rtol=1e-12)


def test_what_the_data_do_not_determine_is_infinitely_uncertain():
    """Of a product only the product is known; a prior bounds the factors."""
    product = lambda model, x: model.a * model.b * x[0] - x[1]
    term = rv.Term("data", product)
    objective, theta = rv.Objective.from_terms((term,), Decay(jnp.asarray(2.0), jnp.asarray(3.0)))
    batch = {"data": jnp.asarray(RNG.normal(size=(9, 2)))}
    found = rv.posterior(objective=objective, theta=theta, batch=batch, noise=0.1)
    assert np.isinf(found.std(both)).all()
    exact = 0.1 / np.linalg.norm(batch["data"][:, 0])
    assert float(found.std(lambda m: m.a * m.b)) == pytest.approx(exact)
    bounded = rv.posterior(objective=objective, theta=theta, batch=batch, noise=0.1, prior=5.0).std(both)
    assert np.isfinite(bounded).all()
    assert (bounded < 5.0).all()


def test_logistic_regression_against_the_information_matrix():
    x, y = RNG.normal(size=(40, 3)), RNG.integers(0, 2, 40).astype(float)
    w = jnp.asarray([0.3, -0.5, 0.1])
    objective, theta = rv.Objective.from_terms((rv.supervised("labels", rv.logistic),), Linear(w))
    batch = {"labels": (jnp.asarray(x), jnp.asarray(y))}
    found = rv.posterior(objective=objective, theta=theta, batch=batch, noise=1.0)
    p = 1 / (1 + np.exp(-x @ np.asarray(w)))
    np.testing.assert_allclose(found.covariance(weights), np.linalg.inv((x.T * p * (1 - p)) @ x), rtol=1e-8)
    with pytest.raises(ValueError, match="say noise=1"):
        rv.posterior(objective=objective, theta=theta, batch=batch)


def test_bad_input():
    objective, theta, *_, batch = linear()
    given = {"objective": objective, "theta": theta, "batch": batch}
    with pytest.raises(ValueError, match="noise is -1"):
        rv.posterior(**given, noise=-1.0)
    with pytest.raises(ValueError, match=r"no term 'dta'; the terms are \['law', 'data'\]"):
        rv.posterior(**given, data=("dta",))
    with pytest.raises(ValueError, match="needs a run"):
        rv.posterior()
    with pytest.raises(ValueError, match="between 0 and 1"):
        rv.posterior(**given, noise=1.0).confidence(weights, level=1.0)
    few = {"data": (jnp.eye(3), jnp.zeros(3)), "law": jnp.zeros((1, 3))}
    with pytest.raises(ValueError, match="nothing is left to estimate the noise"):
        rv.posterior(objective=objective, theta=theta, batch=few)


def test_rows_that_are_not_finite_are_named():
    x, y = np.zeros((4, 2)), np.array([0.0, 1.0, np.nan, np.inf])
    with pytest.raises(ValueError, match=r"not finite in 2 of 4 rows; the first is row 2"):
        rv.WithData(rv.Constant({}), data=(x, y))
    with pytest.raises(ValueError, match="common leading axis"):
        rv.WithData(rv.Constant({}), data=(x, y[:3]))


def test_coefficients_of_burgers_are_recovered_and_printed(tmp_path, capsys, monkeypatch):
    """A short run from few data, judged by its own standard deviations; the same numbers by the command line."""
    from ravine import cli
    from ravine.cli import commands
    from ravine.posterior import coefficients

    monkeypatch.setattr(commands, "prepare", lambda place=None: None)
    size = ("--set", "samples=300", "--points", "200", "--width", "6", "--depth", "2", "--sampler", "fixed")
    command = ("solve", "inverse_burgers", "--phases", "levenberg_marquardt:30", *size, "--out", str(tmp_path / "run"))
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert cli.main(("show", str(tmp_path / "run"))) == 0
    shown = capsys.readouterr().out
    run = rv.load(tmp_path / "run")
    found = coefficients(run)
    assert set(found) == {"speed", "viscosity"}
    for name, known in found.items():
        assert f"{name:16} {float(known.value):.8g} ± {float(known.std):.1e}" in out
        assert f"{float(known.value):.8g} ± {float(known.std):.1e}" in shown
        assert known.low < known.value < known.high
    exact = {"speed": 1.0, "viscosity": 0.01 / np.pi}
    errors = {name: abs(float(found[name].value) / exact[name] - 1) for name in exact}
    assert run.error == pytest.approx(max(errors.values()), rel=1e-6)
    assert errors["speed"] < 0.3  # from 0.5
    assert run.model.coefficients["viscosity"] > 0


def test_true_field_satisfies_its_equation():
    """And other fields do not; the error is that of the field alone."""
    from ravine.problems import inverse_field as field

    class Truth:
        coefficients = {"a": lambda z: field.conductivity(z[0], z[1], jnp)}  # noqa: RUF012

        def __call__(self, z):
            return field.potential(z[0], z[1], jnp)

    class Other(Truth):
        coefficients = {"a": lambda z: 1.1 * field.conductivity(z[0], z[1], jnp)}  # noqa: RUF012

    z = jnp.asarray(RNG.uniform(size=(20, 2)))
    residual = lambda model: np.abs(jax.vmap(lambda point: field.equation(model, point))(z)).max()
    assert residual(Truth()) < 1e-13
    assert residual(Other()) > 1e-2
    reference = rv.problems.make("inverse_field", samples=5, points=8, width=3, depth=1).reference
    assert float(reference.error(Truth(), jnp.float64)) < 1e-14
    assert float(reference.error(Other(), jnp.float64)) == pytest.approx(0.1)
    assert float(reference.solution.error(Other(), jnp.float64)) < 1e-14
