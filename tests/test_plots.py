"""Figures show what the run holds: the numbers drawn are compared with the numbers known."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.colors import LogNorm

import ravine as rv
from ravine import plots


def trained(name, **options):
    phases = [rv.Phase(rv.sgd(), steps=3, name="sgd"), rv.Phase(rv.adam(), steps=2, name="adam")]
    return rv.train(rv.problems.make(name, **options), phases, key=jax.random.key(0))


@pytest.fixture(scope="module")
def line():
    return trained("poisson1d", points=16, width=4, depth=1)


@pytest.fixture(scope="module")
def plane():
    return trained("burgers", points=16, width=4, depth=1, sampling="fixed")


@pytest.fixture(scope="module")
def bare():
    return trained("rosenbrock")


def panels(figure):
    return {
        axes.get_title(loc="left"): axes for axes in figure.findobj(plots.sheets.Axes) if axes.get_title(loc="left")
    }


def test_panels_of_one_coordinate(line):
    found = panels(plots.solution(line))
    assert set(found) == {"Solution u(x)", "Pointwise error |u − u*|", "Convergence"}
    (x,) = line.problem.reference.axes
    curve = found["Solution u(x)"].get_lines()[1].get_ydata()
    assert np.allclose(curve, jax.vmap(line.model)(x[:, None]), rtol=1e-12)


def test_panels_of_two_coordinates(plane):
    found = panels(plots.solution(plane))
    assert set(found) == {"Solution u(x, t)", "Pointwise error |u − u*|", "Training points", "Convergence"}
    reference = plane.problem.reference
    error = np.abs(np.asarray(jax.vmap(plane.model)(reference.points)).reshape(257, 101) - reference.values)
    (mesh,) = found["Pointwise error |u − u*|"].collections
    assert isinstance(mesh.norm, LogNorm)
    shown = np.asarray(mesh.get_array()).reshape(257, 101)  # x upwards, t to the right
    clear = error > mesh.norm.vmin
    assert np.allclose(shown[clear], error[clear], rtol=1e-9)
    assert mesh.norm.vmax >= error.max()
    (cloud,) = found["Training points"].collections
    points = np.asarray(plane.position.carry.sampler.batch["pde"])
    assert np.allclose(cloud.get_offsets(), points[:, ::-1])
    assert found["Training points"].get_xlabel() == "t"


def test_only_convergence_without_a_grid(bare):
    figure = plots.solution(bare)
    assert set(panels(figure)) == {"Convergence"}


def test_panels_of_an_operator():
    """Exact and found values of the best and the worst test function, and the errors in order; their mean is known."""
    run = trained("antiderivative", functions=6, tests=5, sensors=7, queries=9, width=3, depth=1, basis=2)
    found = panels(plots.solution(run))
    assert set(found) == {"Test functions, from best to worst", "Relative error of each test function", "Convergence"}
    (errors,) = (line.get_ydata() for line in found["Relative error of each test function"].get_lines())
    assert np.isclose(errors.mean(), run.problem.error(run.objective, run.theta), rtol=1e-9)
    assert (np.diff(errors) >= 0).all()
    exact, values = (line.get_ydata() for line in found["Test functions, from best to worst"].get_lines()[-2:])
    row = int(np.flatnonzero((run.problem.reference.values == exact).all(axis=1))[0])
    model, reference = run.model, run.problem.reference
    assert np.allclose(values, model(jnp.asarray(reference.functions[row]), jnp.asarray(reference.points)), rtol=1e-9)
    assert np.isclose(np.linalg.norm(values - exact) / np.linalg.norm(exact), errors[-1])


def test_panels_of_an_operator_on_a_plane():
    run = trained("darcy_operator", functions=3, tests=3, grid=9, modes=2, width=3, depth=1, batch=2)
    found = panels(plots.solution(run))
    assert set(found) == {"Exact, the median test function", "Found", "Error |u − u*|", "Convergence"}
    exact, values, error = (
        np.asarray(found[name].get_images()[0].get_array())
        for name in ("Exact, the median test function", "Found", "Error |u − u*|")
    )
    assert np.allclose(error, np.abs(values - exact))
    assert any(np.array_equal(exact.T, other) for other in run.problem.reference.values)


def test_convergence_shows_the_history_and_its_phases(line):
    axes = panels(plots.solution(line))["Convergence"]
    lines = {drawn.get_label().split("  ")[0]: drawn for drawn in axes.get_lines() if drawn.get_label()[0] != "_"}
    wall = line.history["seconds"] + line.history["compile_seconds"]
    columns = {"loss": "loss", "loss on independent points": "test_loss", "relative error": "error"}
    assert set(lines) == set(columns)
    for label, column in columns.items():
        assert np.array_equal(lines[label].get_xdata(), wall)
        assert np.array_equal(lines[label].get_ydata(), line.history[column])
    assert {text.get_text() for text in axes.texts} == {"sgd", "adam"}


def test_convergence_marks_the_parameters_that_are_returned(line):
    rows = [dict(row) for row in line.history.rows]
    rows[2]["test_loss"] = min(row["test_loss"] for row in rows) / 10
    run = dataclasses.replace(line, history=rv.run.History(rows))
    axes = panels(plots.solution(run))["Convergence"]
    shown = {drawn.get_label().split("  ")[0]: drawn.get_label().split("  ")[-1] for drawn in axes.get_lines()}
    assert shown["relative error"] == f"{run.error:.1e}" != f"{rows[-1]['error']:.1e}"
    dots = [drawn.get_xydata() for drawn in axes.get_lines() if drawn.get_marker() == "o"]
    wall = rows[2]["seconds"] + rows[2]["compile_seconds"]
    expected = [[wall, rows[2][column]] for column in ("loss", "test_loss", "error")]
    assert np.array_equal(np.concatenate(dots), expected)


@pytest.mark.parametrize("broken", [np.nan, np.inf, 0.0])
def test_losses_that_are_no_positive_numbers(bare, broken):
    rows = [*bare.history.rows, {**bare.history.rows[-1], "loss": broken, "error": broken}]
    plots.solution(dataclasses.replace(bare, history=rv.History(rows)))
    rows = [{**row, "loss": broken, "test_loss": broken, "error": broken} for row in bare.history.rows]
    plots.solution(dataclasses.replace(bare, history=rv.History(rows)))


def test_a_single_row(bare):
    plots.solution(dataclasses.replace(bare, history=rv.History(bare.history.rows[:1])))


def test_a_model_that_is_nowhere_finite(plane):
    lost = dataclasses.replace(plane, theta=plane.theta * np.nan)
    plots.solution(lost)


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_save(bare, tmp_path, ending):
    path = tmp_path / f"figure.{ending}"
    plots.save(bare, path)
    assert path.stat().st_size > 5_000


def test_no_global_state():
    assert "pyplot" not in inspect.getsource(plots).split('"""', 2)[2]


def test_panels_of_an_inverse_problem():
    """Coefficients stand at their relative deviations, a field at its values along the middle of its grid."""
    run = trained("inverse_burgers", points=8, samples=30, width=3, depth=1)
    panel = panels(plots.solution(run))["Coefficients, relative to the truth"]
    (places,) = (line for line in panel.get_lines() if len(line.get_xdata()) == 2 and line.get_marker() == "o")
    model, exact = run.model, run.problem.reference.exact
    expected = [float(model.coefficients[name] / exact[name]) - 1 for name in ("speed", "viscosity")]
    np.testing.assert_allclose(places.get_ydata(), expected, rtol=1e-12)

    run = trained("inverse_field", points=8, samples=30, width=3, depth=1)
    panel = panels(plots.solution(run))["a(x, y = 0.5)"]
    truth, found = (line.get_ydata() for line in panel.get_lines()[:2])
    grid = run.problem.reference.exact["a"]
    np.testing.assert_allclose(truth, grid.values[:, 25])
    here = jnp.array([grid.axes[0][7], 0.5])
    assert found[7] == pytest.approx(float(run.model.coefficients["a"](here)), rel=1e-12)


# --------------------------------------------------------------------------------------------------------- diagnostics


def axes():
    figure = plots.sheets.Figure()
    plots.sheets.FigureCanvasAgg(figure)
    return figure.add_subplot()


def test_spectra_show_eigenvalues_above_rounding():
    drawn = axes()
    found = rv.Spectrum(np.array([4.0, 1.0, 1e-20]), of="a diagonal", order=3, floor=1e-15)
    plots.spectra(drawn, {"pde": found})
    np.testing.assert_array_equal(drawn.lines[0].get_ydata(), [4.0, 1.0])
    assert "4e+00" in drawn.get_legend().get_texts()[0].get_text()


def test_modes_start_at_one():
    drawn = axes()
    predicted = rv.predicted_decay([1.0, 0.5], 0.5, [0, 1, 2])
    plots.modes(drawn, [0, 1, 2], -3 * predicted, predicted)
    for measured, line in ((drawn.lines[0], drawn.lines[1]), (drawn.lines[2], drawn.lines[3])):
        np.testing.assert_allclose(measured.get_ydata(), line.get_ydata())
        assert measured.get_ydata()[0] == 1


def test_slices_mark_the_middle():
    objective, theta = rv.Objective.from_loss(lambda x, _: jnp.sum(x**2) + 1, jnp.ones(3))
    drawn = axes()
    plots.slices(drawn, rv.landscape(objective, theta, None, dimensions=1, resolution=5))
    np.testing.assert_allclose(drawn.lines[0].get_ydata()[2], 4.0)
    plane = axes()
    plots.slices(plane, rv.landscape(objective, theta, None, resolution=5))
    assert plane.collections


def test_the_sheet_of_diagnostics(line):
    found = panels(plots.diagnosis(line))
    assert {"Spectrum of the tangent kernel", "Where in frequency the error lies", "The loss around the end"} <= set(
        found
    )
    spectrum = found["Spectrum of the tangent kernel"].lines[0].get_ydata()
    assert np.all(np.diff(spectrum) <= 0)
