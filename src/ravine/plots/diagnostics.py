"""Figures of diagnostics: why training stalls, in pictures."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from ravine.diagnostics.conflict import Conflict, conflict
from ravine.diagnostics.density import Density
from ravine.diagnostics.errors import Bands, ResidualMap, error_bands, residual_map
from ravine.diagnostics.landscape import Slice, landscape
from ravine.diagnostics.spectra import Spectrum, tangent_kernel
from ravine.plots.sheets import ERROR, GREY, INK, LOSS, STYLE, TERMS
from ravine.problems.problem import GridReference
from ravine.run import Run

GRID = {"color": "#e6e9ec", "lw": 0.7, "zorder": 0}
ROWS = 2000  # of a residual, for which the kernel is decomposed


def spectra(axes: Axes, found: Mapping[str, Spectrum]) -> None:
    """Eigenvalues in descending order, by name; the condition number of what is above rounding in the legend."""
    for number, (name, spectrum) in enumerate(found.items()):
        values = spectrum.kept
        colour = TERMS[number % len(TERMS)]
        label = f"{name}  κ = {spectrum.condition:.0e}" if values.size else name
        axes.plot(np.arange(1, values.size + 1), np.abs(values), color=colour, lw=1.6, label=label, zorder=3)
    axes.set_yscale("log")
    axes.grid(True, **GRID)
    axes.set_xlabel("mode")
    axes.set_ylabel("eigenvalue")
    axes.set_title("Spectrum of the tangent kernel")
    axes.legend(loc="lower left", handlelength=1.4)


def densities(axes: Axes, found: Mapping[str, Density], *, width: float = 0.15) -> None:
    """Densities of eigenvalues on a logarithmic axis, by name, such as before and after a preconditioner."""
    for number, (name, density) in enumerate(found.items()):
        top = float(np.abs(density.nodes).max())
        at = np.logspace(np.log10(top) - 17, np.log10(top) + 1, 400)
        colour = TERMS[number % len(TERMS)]
        axes.plot(at, density(at, width=width), color=colour, lw=1.6, label=name, zorder=3)
    axes.set_xscale("log")
    axes.grid(True, **GRID)
    axes.set_xlabel("eigenvalue")
    axes.set_ylabel("share of them in a decade")
    axes.set_title("Density of eigenvalues")
    axes.legend(loc="upper left", handlelength=1.4)


def modes(axes: Axes, steps: Sequence[int] | np.ndarray, measured: np.ndarray, predicted: np.ndarray) -> None:
    """Errors of modes, `(steps, k)`, measured (lines) and as predicted (dashes), each over its start."""
    for number in range(measured.shape[1]):
        colour = TERMS[number % len(TERMS)]
        start = abs(measured[0, number]) or 1.0
        axes.plot(
            steps, np.abs(measured[:, number]) / start, color=colour, lw=1.8, label=f"mode {number + 1}", zorder=3
        )
        axes.plot(steps, np.abs(predicted[:, number]), color=INK, lw=0.9, ls=(0, (4, 3)), zorder=4)
    axes.grid(True, **GRID)
    axes.set_xlabel("step")
    axes.set_ylabel("what is left of it")
    axes.set_title("Modes: measured, and (1 − αλ)ᵏ dashed")
    axes.legend(loc="upper right", handlelength=1.4)


def conflicts(axes: Axes, found: Conflict) -> None:
    """Cosines between the gradients of terms as a matrix, their norms beside the names."""
    names = [f"{name}\n{norm:.0e}" for name, norm in found.norms.items()]
    axes.imshow(found.cosines, vmin=-1, vmax=1, cmap="RdBu")
    for i in range(len(names)):
        for j in range(len(names)):
            value = found.cosines[i, j]
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", color="white" if abs(value) > 0.6 else INK)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), list(found.norms))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title("Gradients of terms: cosines and norms")


def bands(axes: Axes, found: Bands) -> None:
    """Error and reference by frequency, octave by octave: the relative size in each band."""
    places = np.arange(len(found.share))
    floor = 1e-18
    axes.bar(places - 0.2, np.sqrt(np.maximum(found.exact, floor)), 0.4, color=GREY, label="reference", zorder=3)
    axes.bar(places + 0.2, np.sqrt(np.maximum(found.share, floor)), 0.4, color=ERROR, label="error", zorder=3)
    axes.set_yscale("log")
    axes.set_ylim(1e-6, 2)
    axes.set_xticks(places, [f"{low:g}–" for low in found.edges[:-1]])
    axes.grid(True, axis="y", **GRID)
    axes.set_xlabel("waves across the domain, from")
    axes.set_ylabel("share (root of energy)")
    axes.set_title("Where in frequency the error lies")
    axes.legend(loc="upper right", handlelength=1.2)


def residuals(axes: Axes, found: ResidualMap, names: Sequence[str] = ("x", "y")) -> None:
    """The loss at points of a term, in one or two dimensions; places without training points are circled."""
    values = np.maximum(found.values, max(found.values.max(), 1e-300) * 1e-8)
    if found.points.shape[1] == 1:
        axes.semilogy(found.points[:, 0], values, "o", ms=2.5, color=LOSS, zorder=3)
        axes.semilogy(found.missing[:, 0], np.full(len(found.missing), values.max()), "v", ms=5, color=ERROR, zorder=4)
        axes.grid(True, **GRID)
        axes.set_ylabel("loss at a point")
    else:
        order = np.argsort(values)
        x, y = found.points[order, -1], found.points[order, 0]
        drawn = axes.scatter(x, y, c=values[order], s=7, cmap="magma", norm=LogNorm(), linewidths=0, zorder=3)
        axes.scatter(found.missing[:, -1], found.missing[:, 0], s=40, facecolors="none", edgecolors=ERROR, zorder=4)
        figure = axes.get_figure()
        assert figure is not None
        figure.colorbar(drawn, ax=axes, label="loss at a point", fraction=0.05, pad=0.02)
        axes.set_ylabel(names[0])
    axes.set_xlabel(names[-1] if found.points.shape[1] > 1 else names[0])
    axes.set_title("Where the loss lies" + (" (circled: points missing)" if len(found.missing) else ""))


def slices(axes: Axes, found: Slice) -> None:
    """The loss along a line, or across a plane with the trajectory where there is one."""
    label = {"random": "random direction", "hessian": "eigenvector of the Hessian", "path": "principal direction"}[
        found.kind
    ]
    if found.values.ndim == 1:
        axes.semilogy(found.steps, np.maximum(found.values, 1e-300), color=LOSS, lw=1.8, zorder=3)
        axes.axvline(0, color=GREY, lw=0.8)
        axes.grid(True, **GRID)
        axes.set_xlabel(label)
        axes.set_ylabel("loss")
    else:
        positive = found.values[found.values > 0]
        norm = LogNorm(float(positive.min()), float(positive.max())) if positive.size else None
        shown = np.maximum(found.values, positive.min() if positive.size else 0)
        axes.contourf(found.steps, found.steps, shown.T, levels=_levels(shown), cmap="viridis", norm=norm, zorder=1)
        if found.track is not None:
            axes.plot(found.track[:, 0], found.track[:, 1], color="white", lw=1.4, zorder=3)
        axes.plot(0, 0, "o", ms=5, color=ERROR, zorder=4)
        axes.set_xlabel(f"first {label}")
        axes.set_ylabel("second")
    axes.set_title("The loss around the end")


def _levels(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    return np.geomspace(low, high, 24) if 0 < low < high else np.linspace(low, high + 1e-30, 24)


def diagnosis(run: Run) -> Figure:
    """One sheet of diagnostics of a run: spectra by term, conflict, loss by place, error by frequency, landscape.

    **Raises:** `ValueError` for a run of a loss that has no problem. **Cost:** a kernel of at most 2,000 rows and its
    eigenvalues, and about a thousand evaluations of the loss: under a minute for thousands of parameters.
    """
    import matplotlib

    problem = run.problem
    if problem is None:
        raise ValueError("diagnosis: the run has no problem; draw the parts, such as plots.spectra(axes, …), by hand.")
    objective, theta = run.objective.over(None), run.theta
    batch = run.position.carry.sampler.batch
    _, _, sampler = problem.objective(jax.random.key(0))
    other = sampler.judge(sampler.init(jax.random.key(1)).batch)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(15, 8.4), layout="constrained")
        FigureCanvasAgg(figure)
        cells = list(figure.subplots(2, 3).ravel())
        drawers = [
            lambda axes: spectra(axes, _kernels(run, other)),
            lambda axes: conflicts(axes, _several(conflict(objective, theta, batch))),
            lambda axes: residuals(axes, _map(run, batch, other), _names(run)),
            lambda axes: bands(axes, error_bands(run.model, _grid(run))),
            lambda axes: slices(axes, landscape(objective, theta, batch, "hessian", dimensions=1, reach=3.0)),
            lambda axes: slices(axes, landscape(objective, theta, batch, "random", reach=0.1, resolution=21)),
        ]
        for axes, draw in zip(cells, drawers, strict=True):
            try:
                draw(axes)
            except (ValueError, KeyError, TypeError) as why:  # what does not apply to this problem says so
                axes.clear()
                axes.set_axis_off()
                axes.text(0.5, 0.5, _wrapped(str(why)), ha="center", va="center", color=GREY, fontsize=8)
        title = f"{problem.name or 'run'}: diagnostics"
        figure.suptitle(title, x=0.012, ha="left", fontsize=13, fontweight="bold", color=INK)
        figure.draw_without_rendering()
    return figure


def _wrapped(text: str) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, 48))


def _several(found: Conflict) -> Conflict:
    if len(found.norms) < 2:
        raise ValueError("One term, so nothing that it could be in conflict with.")
    return found


def _grid(run: Run) -> GridReference:
    reference = None if run.problem is None else run.problem.reference
    if not isinstance(reference, GridReference):
        raise ValueError("No reference on a grid, so no error by frequency.")
    return reference


def _names(run: Run) -> Sequence[str]:
    reference = None if run.problem is None else run.problem.reference
    return reference.names if isinstance(reference, GridReference) else ("x", "y")


def _kernels(run: Run, batch) -> dict[str, Spectrum]:
    """The spectrum of each term, thinned to what can be decomposed."""
    from ravine.diagnostics.case import thinned

    objective, rows = run.objective.over(None), run.objective.size(batch)
    if rows > ROWS:
        batch = {name: thinned(entry, ROWS / rows) for name, entry in batch.items()}
    return {term.name: tangent_kernel(objective, run.theta, batch, term=term.name) for term in objective.terms}


def _map(run: Run, batch, other) -> ResidualMap:
    """Of the first term whose points have one or two coordinates."""
    for term in run.objective.terms:
        entry = other[term.name] if not term.whole else None
        entry = getattr(entry, "points", entry)
        if entry is not None and getattr(entry, "ndim", 0) == 2 and entry.shape[1] <= 2:
            return residual_map(run.objective, run.theta, batch, other, term.name)
    raise ValueError("No term has points of one or two coordinates.")
