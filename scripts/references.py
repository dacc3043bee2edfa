"""How wrong is the yardstick? The own error of every reference solution, beside the best that ravine reached.

    python scripts/references.py
    python scripts/references.py --only burgers,cavity

Closed forms are evaluated anew in extended precision from formulas written down here; what was computed is computed
again at a higher resolution; stationary points are judged by their gradient. Relative L2 errors, as for a run. The
command fails when a reference is not ten times as good as the best that was reached on its problem. Some minutes.
"""

import argparse
import sys
from collections.abc import Callable

import jax
import make_spectral_references as stored
import numpy as np

import ravine as rv
from ravine.problems import CATALOGUE, lotka_volterra, operator_data, reference, spectral
from ravine.problems.problem import CoefficientReference, GridReference, PointReference

MARGIN = 10
Long = np.longdouble
PI = 4 * np.arctan(Long(1))


def peak(z):
    """The bump of `peak`."""
    return np.exp(-1000 * ((z[0] - Long(0.5)) ** 2 + (z[1] - Long(0.5)) ** 2))


def front(z):
    """Logistic growth from a Gaussian."""
    start = np.exp(-((z[0] - PI) ** 2) / (2 * (PI / 4) ** 2)) * np.exp(5 * z[1])
    return start / (start + 1 - np.exp(-((z[0] - PI) ** 2) / (2 * (PI / 4) ** 2)))


FORMULAS: dict[str, Callable] = {
    "poisson1d": lambda z: np.sin(PI * z[0]),
    "poisson2d": lambda z: np.sin(PI * z[0]) * np.sin(PI * z[1]),
    "poisson5d": lambda z: sum(np.cos(PI * one) for one in z),
    "poisson10d": lambda z: sum(z[i] * z[i + 1] for i in range(0, 10, 2)),
    "poisson100d": lambda z: 3 * sum(one**2 for one in z) / 100,
    "heat1d": lambda z: np.exp(-(PI**2) * z[1] / 4) * np.sin(PI * z[0]),
    "heat4d": lambda z: np.exp(-(PI**2) * z[4]) * sum(np.sin(2 * PI * one) for one in z[:4]),
    "helmholtz_soft": lambda z: np.sin(PI * z[0]) * np.sin(4 * PI * z[1]),
    "peak": peak,
    "multiscale1d": lambda z: np.sin(z[0]) + np.sin(15 * z[0]),
    "convection": lambda z: np.sin(z[0] - 40 * z[1]),
    "reaction": front,
    "ritz1d": lambda z: np.cos(PI * z[0]),
    "ritz2d": lambda z: np.sin(PI * z[0]) * np.sin(PI * z[1]),
    "regression1d": lambda z: np.sin(2 * PI * z[0]) + np.sin(8 * PI * z[0]) / 2 + np.sin(16 * PI * z[0]) / 4,
}


def apart(found, exact) -> float:
    """‖found − exact‖₂/‖exact‖₂."""
    found, exact = np.asarray(found, Long), np.asarray(exact, Long)
    return float(np.sqrt(np.sum((found - exact) ** 2) / np.sum(exact**2)))


def by_row(found, exact) -> float:
    """The mean of that over functions."""
    return float(np.mean([apart(a, b) for a, b in zip(found, exact, strict=True)]))


def by_formula(name: str) -> float:
    """A closed form in float64 against one in extended precision."""
    known = rv.problems.make(name).reference
    assert isinstance(known, (GridReference, PointReference))
    points = np.asarray(known.points, Long)
    return apart(np.ravel(known.values), FORMULAS[name](points.T))


def of_burgers(name: str) -> float:
    """Half the step of the quadrature."""
    viscosity = 0.01 if name == "burgers_smooth" else 0.01 / np.pi
    known = rv.problems.make(name).reference
    assert isinstance(known, GridReference)
    x, t = known.axes
    return apart(known.values, reference.burgers(x[:, None], t[None, :], viscosity, refinement=2))


def of_allen_cahn(_: str) -> float:
    """Twice the steps, and a finer start."""
    x, t, u = reference.allen_cahn()
    return apart(u[:, 2:], reference.solve_allen_cahn(x, t, modes=1024, steps=80, levels=16)[:, 2:])


def of_spectral(name: str) -> float:
    """A finer resolution. For the cavity of what the error is told of, the velocity."""
    file = stored.FILES[name]
    axes = list(file.axes.values())
    finer = file.solve(*axes, **file.finest)
    with np.load(spectral.__file__.replace("spectral.py", f"{name}.npz")) as content:
        return apart(content["u"], finer)


def of_darcy(_: str) -> float:
    """A mesh four times as fine."""
    coarse, fine = (operator_data.darcy(4, 4, refine=refine).test_outputs for refine in (1, 4))
    return by_row(coarse, fine)


def of_burgers_operator(_: str) -> float:
    """Twice the modes and steps."""
    coarse = operator_data.burgers(4, 8).test_outputs
    return by_row(coarse, operator_data.burgers(4, 8, points=512, steps=4000).test_outputs)


def of_line(name: str) -> float:
    """The integrals of the fields by Gauss quadrature, from their values there."""
    make = operator_data.poisson if name == "poisson_operator" else operator_data.antiderivative
    nodes, weights = np.polynomial.legendre.leggauss(60)
    s = (nodes + 1) / 2
    points, data = make(2, 40)
    y = np.asarray(points)[:, 0]
    # The same functions at the quadrature nodes of [0, y] for every y: sensors are free to be anywhere.
    field = operator_data.Field.draw(40, 0.2, operator_data.sources(0)[1])
    found = np.zeros((40, len(y)))
    for number, end in enumerate(y):
        if name == "poisson_operator":  # Green's function, on both sides of its kink
            left = field(end * s) * (end * s) * (1 - end)
            right = field(end + (1 - end) * s) * (1 - end - (1 - end) * s) * end
            found[:, number] = (end * left + (1 - end) * right) @ (weights / 2)
        else:
            found[:, number] = end * field(end * s) @ (weights / 2)
    return by_row(data.test_outputs, found)


def of_logistic(name: str) -> float:
    """What one more Newton step with a gradient of more digits changes."""
    samples, labels = reference.logistic_data(10_000, 50)
    optimum = rv.problems.make(name).reference.parameters
    correction = reference.logistic_correction(optimum, samples, labels, 1e-3)
    return float(np.linalg.norm(correction) / np.linalg.norm(optimum))


def of_trajectory(_: str) -> float:
    """A tolerance of 1e-10 beside 1e-12; the law along them is exact."""
    times = tuple(np.linspace(0, 3, 61))
    fine, coarse = (lotka_volterra.solved(False, times, tolerance) for tolerance in (1e-12, 1e-10))
    return apart(coarse, fine)


def of_field(name: str) -> float:
    """The conductivity in extended precision."""
    known = rv.problems.make(name).reference
    assert isinstance(known, CoefficientReference)
    a = known.exact["a"]
    x, y = np.moveaxis(np.asarray(a.points, Long), 1, 0)
    return apart(np.ravel(a.values), np.exp(np.sin(PI * x) * np.cos(PI * y) / 2 + np.cos(2 * PI * x) / 4))


def of_coefficients(name: str) -> float:
    """1 and 0.01/π: rounding."""
    known = rv.problems.make(name).reference
    assert isinstance(known, CoefficientReference)
    return apart([known.exact["speed"], known.exact["viscosity"]], [Long(1), Long(1) / 100 / PI])


ERRORS: dict[str, Callable[[str], float]] = {
    **dict.fromkeys(FORMULAS, by_formula),
    "burgers": of_burgers,
    "burgers_smooth": of_burgers,
    "allen_cahn": of_allen_cahn,
    "advection_diffusion": of_spectral,
    "kuramoto_sivashinsky": of_spectral,
    "cavity": of_spectral,
    "antiderivative": of_line,
    "antiderivative_physics": of_line,
    "poisson_operator": of_line,
    "darcy_operator": of_darcy,
    "burgers_operator": of_burgers_operator,
    "inverse_burgers": of_coefficients,
    "inverse_field": of_field,
    "lotka_volterra": of_trajectory,
    "logistic": of_logistic,
}
GIVEN = ("quadratic", "rosenbrock", "digits", "two_moons")  # integers and labels: nothing was computed


def main() -> int:
    """Prints the table; 1 when a reference is too coarse."""
    jax.config.update("jax_enable_x64", True)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(CATALOGUE), help="names of problems, with commas")
    chosen = parser.parse_args()
    coarse = 0
    print("| problem | reference | its own error | best reached | times better |\n|---|---|---|---|---|", flush=True)
    for name in chosen.only.split(","):
        entry = CATALOGUE[name]
        error = 0.0 if name in GIVEN else ERRORS[name](name)
        best = "" if entry.error is None else f"{entry.error:.1e}"
        ratio = "" if entry.error is None else "∞" if error == 0 else f"{entry.error / error:.0e}"
        coarse += entry.error is not None and error * MARGIN > entry.error
        print(f"| `{name}` | {entry.reference} | {error:.1e} | {best} | {ratio} |", flush=True)
    return int(coarse > 0)


if __name__ == "__main__":
    sys.exit(main())
