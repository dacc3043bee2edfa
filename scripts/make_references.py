"""Write the stored reference solutions next to ``ravine.problems.reference``.

Usage::

    python scripts/make_references.py            # write the files
    python scripts/make_references.py --check    # also print the convergence study behind `allen_cahn`
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from ravine.problems import reference

RESOLUTION = {"modes": 2048, "steps": 40, "levels": 12}
FINEST = {"modes": 4096, "steps": 80, "levels": 16}
COARSER = (
    {"modes": 512, "steps": 40, "levels": 12},
    {"modes": 1024, "steps": 40, "levels": 12},
    {"modes": 2048, "steps": 10, "levels": 12},
    {"modes": 2048, "steps": 20, "levels": 12},
)


def grid() -> tuple[np.ndarray, np.ndarray]:
    """Points and times of the stored solution."""
    return np.linspace(-1.0, 1.0, 257), np.linspace(0.0, 1.0, 101)


def main() -> None:
    """Compute, write and, if asked, check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="print the convergence study (about a minute)")
    parser.add_argument("--folder", type=Path, default=Path(reference.__file__).parent, help="where to write")
    arguments = parser.parse_args()

    x, t = grid()
    u = reference.solve_allen_cahn(x, t, **RESOLUTION)
    target = arguments.folder / "allen_cahn.npz"
    np.savez_compressed(target, x=x, t=t, u=u)
    print(f"{target.name}: {u.shape[0]} x {u.shape[1]}, {target.stat().st_size} bytes")

    if arguments.check:
        finest = reference.solve_allen_cahn(x, t, **FINEST)
        print(f"difference from {FINEST}: relative L2 over the grid, largest, relative L2 at t = {t[1]:.2f}")
        for resolution in (*COARSER, RESOLUTION):
            v = u if resolution is RESOLUTION else reference.solve_allen_cahn(x, t, **resolution)
            overall = np.linalg.norm(v - finest) / np.linalg.norm(finest)
            early = np.linalg.norm(v[:, 1] - finest[:, 1]) / np.linalg.norm(finest[:, 1])
            print(f"{resolution}: {overall:.1e}, {np.abs(v - finest).max():.1e}, {early:.1e}")


if __name__ == "__main__":
    main()
