"""Write the stored solutions next to ``ravine.problems.spectral``.

Usage::

    python scripts/make_spectral_references.py            # write the files
    python scripts/make_spectral_references.py --check    # also print how each solver converges (some minutes)
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ravine.problems import spectral


class Stored(NamedTuple):
    """A file: its axes, the solver, the resolution stored, and coarser ones, and a finer one to compare with."""

    axes: dict[str, np.ndarray]
    solve: Callable[..., np.ndarray]
    resolution: dict[str, Any]
    coarser: tuple[dict[str, Any], ...]
    finest: dict[str, Any]


UNIT = np.linspace(0.0, 1.0, 201)
FILES = {
    "advection_diffusion": Stored(
        {"x": UNIT, "y": UNIT},
        spectral.solve_advection_diffusion,
        {"degree": 16, "levels": 10},
        ({"degree": 8, "levels": 6}, {"degree": 10, "levels": 8}, {"degree": 12, "levels": 8}),
        {"degree": 20, "levels": 12},
    ),
    "kuramoto_sivashinsky": Stored(
        {"x": np.linspace(0.0, 2 * np.pi, 257), "t": np.linspace(0.0, 1.0, 101)},
        spectral.solve_kuramoto_sivashinsky,
        {"modes": 256, "steps": 160},
        ({"modes": 64, "steps": 80}, {"modes": 128, "steps": 40}, {"modes": 256, "steps": 80}),
        {"modes": 320, "steps": 320},
    ),
    "cavity": Stored(
        {"x": UNIT[::2], "y": UNIT[::2]},
        spectral.solve_cavity,
        {"modes": 48, "points": 160},
        ({"modes": 16, "points": 96}, {"modes": 24, "points": 120}, {"modes": 32, "points": 128}),
        {"modes": 60, "points": 200},
    ),
}


def main() -> None:
    """Compute, write and, if asked, check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="print the convergence study")
    parser.add_argument("--folder", type=Path, default=Path(spectral.__file__).parent, help="where to write")
    parser.add_argument("names", nargs="*", default=list(FILES), help=f"which of {', '.join(FILES)}; all by default")
    arguments = parser.parse_args()
    for name in arguments.names:
        stored = FILES[name]
        u = stored.solve(*stored.axes.values(), **stored.resolution)
        target = arguments.folder / f"{name}.npz"
        np.savez_compressed(target, **stored.axes, u=u)
        print(f"{target.name}: {u.shape}, {target.stat().st_size} bytes")
        if arguments.check:
            finest = stored.solve(*stored.axes.values(), **stored.finest)
            print(f"difference from {stored.finest}: relative L2 over the grid, largest")
            for resolution in (*stored.coarser, stored.resolution):
                v = u if resolution is stored.resolution else stored.solve(*stored.axes.values(), **resolution)
                relative = np.linalg.norm(v - finest) / np.linalg.norm(finest)
                print(f"{resolution}: {relative:.1e}, {np.abs(v - finest).max():.1e}")


if __name__ == "__main__":
    main()
