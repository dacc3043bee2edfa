"""Three claims about training with differential equations, measured and drawn into docs/images/claims.png.

    python scripts/claims.py

C1: the condition number of the residual's Gramian grows with the order of the derivative and with the frequency.
C2: errors along eigenvectors of the tangent kernel decay like (1 − αλ)ᵏ.
C3: more points do not change the condition, they change the integral. The tests assert all three.
"""

import argparse
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.style import context

import ravine as rv
from ravine.plots import diagnostics
from ravine.plots.sheets import ERROR, GREY, LOSS, STYLE, TERMS

ORDERS, FREQUENCIES = (0, 1, 2, 4), (1, 4, 16)
PAGE = Path(__file__).parent.parent / "docs" / "images" / "claims.png"


class Sines(eqx.Module):
    """Σ a_j sin(π j x): the solution of poisson1d for one frequency, and all below twice that."""

    amplitudes: jax.Array

    def __call__(self, x):
        return jnp.dot(self.amplitudes, jnp.sin(jnp.pi * jnp.arange(1.0, self.amplitudes.size + 1) * x[0]))


def law(order: int):
    """u with `order` derivatives taken."""

    def derivative(u, x):
        function = lambda s: u(s[None])
        for _ in range(order):
            function = jax.grad(function)
        return function(x[0])

    return derivative


def condition(model: eqx.Module, order: int, points: jax.Array) -> float:
    """Of the Gramian of the residual ∂^order u."""
    objective, theta = rv.Objective.from_terms([rv.residual("pde", law(order))], model)
    return rv.curvature(objective, theta, {"pde": points}).condition


def first(axes: Axes) -> None:
    """C1 against the order, a line for each frequency."""
    points = (jnp.arange(64.0)[:, None] + 0.5) / 64
    for k, colour in zip(FREQUENCIES, TERMS, strict=False):
        found = [condition(Sines(jnp.zeros(2 * k)), order, points) for order in ORDERS]
        axes.semilogy(ORDERS, found, "o-", color=colour, lw=1.6, ms=4, label=f"k = {k}")
        print(f"C1  k = {k:2}: " + ", ".join(f"order {p}: {c:.1e}" for p, c in zip(ORDERS, found, strict=True)))
    axes.set_xlabel("order of the derivative (0: data)")
    axes.set_title("C1  condition of the residual's Gramian")
    axes.set_xticks(ORDERS)
    axes.legend()


def second(axes: Axes) -> None:
    """C2: a network 1 − 1024 − 1 under gradient descent, its largest modes."""
    problem = rv.problems.make("regression1d", points=64)
    objective, theta = rv.Objective.from_terms(problem.terms, problem.model(jax.random.key(0)))
    batch = problem.sampler.batch
    spectrum = rv.tangent_kernel(objective, theta, batch)
    rate = 0.25 * spectrum.largest_stable_step
    step = lambda theta, _: (theta - rate * objective.value_and_grad(theta, batch)[1],) * 2
    thetas = jnp.concatenate([theta[None], jax.jit(lambda t: lax.scan(step, t, None, length=1000)[1])(theta)])[::25]
    errors = rv.mode_errors(objective, thetas, batch, spectrum.vectors)
    main = np.flatnonzero(errors[0] ** 2 > 0.01 * np.sum(errors[0] ** 2))[:5]
    steps = np.arange(0, 1001, 25)
    predicted = rv.predicted_decay(spectrum.eigenvalues, rate, steps)
    diagnostics.modes(axes, steps, errors[:, main], predicted[:, main])
    off = np.max(np.abs(errors - predicted * errors[0])[:, main] / np.abs(errors[0, main]))
    print(f"C2  worst of {len(main)} modes over 1,000 steps: {off:.1%} of its start")
    axes.set_title("C2  modes: measured, (1 − αλ)ᵏ dashed")


def third(axes: Axes) -> None:
    """C3: condition and error of the integral against the number of points."""
    model = Sines(jnp.linspace(1, 2, 6))
    objective, theta = rv.Objective.from_terms([rv.residual("pde", law(2))], model)
    exact = 0.25 * np.sum((np.pi * np.arange(1, 7)) ** 4 * np.linspace(1, 2, 6) ** 2)
    counts = 2 ** np.arange(5, 13)
    conditions, errors = [], []
    for m in counts:
        batch = {"pde": jnp.linspace(0, 1, m)[:, None]}
        conditions.append(rv.curvature(objective, theta, batch).condition)
        errors.append(abs(float(objective(theta, batch)) / exact - 1))
    axes.loglog(counts, conditions, "o-", color=LOSS, lw=1.6, ms=4, label="condition")
    axes.loglog(counts, errors, "s-", color=ERROR, lw=1.6, ms=4, label="error of the loss as an integral")
    axes.loglog(counts, 0.3 * errors[0] * counts[0] / counts, color=GREY, lw=0.9, ls="--", label="1/m")
    print(f"C3  condition {min(conditions):.1f} to {max(conditions):.1f}, error {errors[0]:.1e} to {errors[-1]:.1e}")
    axes.set_xlabel("points m")
    axes.set_title("C3  more points: the same condition")
    axes.legend()


def main() -> None:
    """Measures and draws."""
    jax.config.update("jax_enable_x64", True)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PAGE)
    chosen = parser.parse_args()
    with context(STYLE):
        figure = Figure(figsize=(12.5, 3.9), layout="constrained")
        FigureCanvasAgg(figure)
        for part, axes in zip((first, second, third), figure.subplots(1, 3), strict=True):
            part(axes)
            axes.grid(True, **diagnostics.GRID)
        figure.savefig(chosen.out, dpi=110)
    print(chosen.out)


if __name__ == "__main__":
    main()
