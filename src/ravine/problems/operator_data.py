"""Pairs of functions (a, G[a]) for operator learning: Gaussian random fields, and what our own solvers make of them.

NumPy and SciPy (float64) only, so that an error in the library cannot hide in the data. Where the solution has a closed
form it is evaluated; what takes seconds is kept in the user's cache folder (`stored`). The same seed gives the same
data, and the test functions do not depend on how many there are to train on. The tests hold a convergence check for
each of them.
"""

import contextlib
import os
import uuid
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import fft

from ravine.problems.reference import etdrk4_stepper

Array = np.ndarray


class OperatorData(NamedTuple):
    """`outputs[i]` is G[inputs[i]] at `points` (q, d); the test functions are independent of the others."""

    inputs: Float[Array, "functions *sensors"]
    outputs: Float[Array, "functions *queries"]
    test_inputs: Float[Array, "tests *sensors"]
    test_outputs: Float[Array, "tests *queries"]


def check(data: OperatorData, where: str = "operator data") -> OperatorData:
    """The data, if functions and values are as many, shapes agree and all numbers are finite.

    **Raises:** `ValueError` that names the array, and the first row with a number that is not finite.

    ```python
    >>> import numpy as np
    >>> from ravine.problems.operator_data import OperatorData, check
    >>> rows = np.ones((3, 2))
    >>> check(OperatorData(rows, rows, rows, rows * np.array([[1], [np.nan], [1]])))
    Traceback (most recent call last):
    ValueError: operator data: test_outputs has numbers that are not finite in 1 of 3 rows; the first is row 1.

    ```
    """
    for inputs, outputs in (("inputs", "outputs"), ("test_inputs", "test_outputs")):
        counts = [np.shape(getattr(data, name))[:1] for name in (inputs, outputs)]
        if counts[0] != counts[1] or counts[0] in ((), (0,)):
            raise ValueError(f"{where}: {inputs} and {outputs} need one row a function each, but have {counts} rows.")
    for train, test in (("inputs", "test_inputs"), ("outputs", "test_outputs")):
        shapes = [np.shape(getattr(data, name))[1:] for name in (train, test)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"{where}: rows of {train} have shape {shapes[0]}, but those of {test} {shapes[1]}.")
    for name, values in data._asdict().items():
        bad = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
        if bad.size:
            raise ValueError(
                f"{where}: {name} has numbers that are not finite in {bad.size} of {len(values)} rows; the first is "
                f"row {bad[0]}."
            )
    return data


# ------------------------------------------------------------------------------------------------------------- fields


def modes(length: float) -> tuple[Float[Array, "k"], Float[Array, "k"]]:
    """Frequencies ω and standard deviations σ of the trigonometric series of a Gaussian field on [0, 1].

    g(x) = σ₀ξ₀ + Σ σ_k (ξ_k cos ω_k x + η_k sin ω_k x) has the covariance exp(−r²/2ℓ²), repeated with period 1 + 8ℓ.
    On [0, 1] the repetitions and the frequencies left out are below 1e-13. So a drawn function is known everywhere.
    """
    period = 1 + 8 * length
    k = np.arange(int(np.ceil(1.45 * period / length)) + 1)
    omega = 2 * np.pi * k / period
    variance = np.sqrt(2 * np.pi) * length / period * np.exp(-((omega * length) ** 2) / 2)
    return omega, np.sqrt(np.where(k == 0, 1, 2) * variance)


class Field(NamedTuple):
    """Draws of a Gaussian field of one coordinate, with their integrals: `cosine`, `sine` hold a row a function."""

    omega: Float[Array, "k"]
    cosine: Float[Array, "functions k"]
    sine: Float[Array, "functions k"]

    @staticmethod
    def draw(count: int, length: float, rng: np.random.Generator) -> "Field":
        """`count` functions of correlation length `length` and variance one."""
        omega, scale = modes(length)
        cosine, sine = scale * rng.standard_normal((2, count, len(omega)))
        return Field(omega[1:], cosine, sine[:, 1:])

    def __call__(self, x: Float[Array, "s"]) -> Float[Array, "functions s"]:
        angle = np.outer(self.omega, x)
        return self.cosine[:, :1] + self.cosine[:, 1:] @ np.cos(angle) + self.sine @ np.sin(angle)

    def integral(self, x: Float[Array, "s"]) -> Float[Array, "functions s"]:
        """∫₀ˣ g."""
        angle, by = np.outer(self.omega, x), 1 / self.omega[:, None]
        # 1 − cos as 2 sin², which keeps its digits near zero.
        bent = 2 * np.sin(angle / 2) ** 2 * by
        return self.cosine[:, :1] * x + self.cosine[:, 1:] @ (np.sin(angle) * by) + self.sine @ bent

    def second_integral(self, x: Float[Array, "s"]) -> Float[Array, "functions s"]:
        """∫₀ˣ∫₀ˢ g."""
        angle, by = np.outer(self.omega, x), 1 / self.omega[:, None]
        bent, rest = 2 * np.sin(angle / 2) ** 2 * by**2, x * by - np.sin(angle) * by**2
        return self.cosine[:, :1] * x**2 / 2 + self.cosine[:, 1:] @ bent + self.sine @ rest


def antiderivative(
    functions: int, tests: int, *, sensors: int = 100, queries: int = 100, length: float = 0.2, seed: int = 0
) -> tuple[Float[Array, "q 1"], OperatorData]:
    """u(x) = ∫₀ˣ f for draws f of a Gaussian field, in closed form: the query points, and f at the sensors with u.

    Sensors and query points are equidistant in [0, 1]. Accuracy: rounding.
    """
    return _of_lines(Field.integral, functions, tests, sensors, queries, length, seed)


def poisson(
    functions: int, tests: int, *, sensors: int = 100, queries: int = 100, length: float = 0.2, seed: int = 0
) -> tuple[Float[Array, "q 1"], OperatorData]:
    """−u″ = f on (0, 1), u(0) = u(1) = 0, for draws f of a Gaussian field, in closed form; as `antiderivative`."""

    def solution(field: Field, x: Float[Array, "s"]) -> Float[Array, "functions s"]:
        return x * field.second_integral(np.ones(1)) - field.second_integral(x)

    return _of_lines(solution, functions, tests, sensors, queries, length, seed)


def _of_lines(
    solution: Callable, functions: int, tests: int, sensors: int, queries: int, length: float, seed: int
) -> tuple[Array, OperatorData]:
    require(functions=functions, tests=tests, sensors=sensors, queries=queries)
    if not 0.01 <= length <= 10:
        raise ValueError(f"The correlation length is {length}, but must lie between 0.01 and 10.")
    s, x = np.linspace(0, 1, sensors), np.linspace(0, 1, queries)
    train, test = (Field.draw(count, length, rng) for count, rng in zip((functions, tests), sources(seed), strict=True))
    return x[:, None], OperatorData(train(s), solution(train, x), test(s), solution(test, x))


def require(**counts: int) -> None:
    """**Raises:** `ValueError` for a number below one."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"The number of {name} is {count}, but must be at least 1.")


def sources(seed: int) -> tuple[np.random.Generator, np.random.Generator]:
    """Random numbers for the functions to train on, and for those to test on."""
    return np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])


# ------------------------------------------------------------------------------------------------------ Darcy's flow


def darcy(
    functions: int, tests: int, *, grid: int = 33, length: float = 0.3, seed: int = 0, refine: int = 1
) -> OperatorData:
    """−∇·(eᵍ∇u) = 10 on (0, 1)², u = 0 on the boundary: g and u on a grid × grid tensor grid, edges included.

    g is a Gaussian field of variance one with the covariance exp(−r²/2ℓ²), so that eᵍ spans some hundredfold.

    Method. Five-point finite differences, with eᵍ exact in the middle of each edge, on `refine` and 2·`refine` times
    finer grids, extrapolated (Richardson) at the points of the coarse one. Systems of all functions are solved at once
    by conjugate gradients to a relative residual of 1e-10.

    Accuracy: 5e-6 in relative L2 by default, against four times as fine grids.
    """
    require(functions=functions, tests=tests)
    if grid < 3 or refine < 1:
        raise ValueError(f"darcy: grid must be at least 3 and refine at least 1, got {grid=}, {refine=}.")
    coarse = np.linspace(0, 1, grid)
    found: list[Array] = []
    for count, rng in zip((functions, tests), sources(seed), strict=True):
        omega, scale = modes(length)
        waves = rng.standard_normal((count, *(2 * len(omega) - 1,) * 2))
        found.append(_plane(waves, omega, scale, coarse, coarse))
        solutions = np.empty((count, grid, grid))
        for start in range(0, count, 50):  # so many at once stay in memory
            part = waves[start : start + 50]
            steps = (refine, 2 * refine)
            once, twice = (_darcy(part, omega, scale, k * (grid - 1))[:, ::k, ::k] for k in steps)
            solutions[start : start + 50] = (4 * twice - once) / 3
        found.append(solutions)
    return OperatorData(*found)


def _plane(waves: Array, omega: Array, scale: Array, x: Array, y: Array) -> Array:
    """Fields of two coordinates, on the tensor grid of x and y: ΣΣ ξ_jk φ_j(x) φ_k(y)."""

    def basis(at: Array) -> Array:
        angle = np.outer(at, omega)
        return np.concatenate([scale * np.cos(angle), scale[1:] * np.sin(angle[:, 1:])], axis=1)

    return basis(x) @ waves @ basis(y).T


def _darcy(waves: Array, omega: Array, scale: Array, cells: int) -> Array:
    """The finite-difference solutions on a grid of cells × cells, edges included."""
    node, middle = np.linspace(0, 1, cells + 1), (np.arange(cells) + 0.5) / cells
    inside = node[1:-1]
    along, across = (np.exp(_plane(waves, omega, scale, *axes)) for axes in ((middle, inside), (inside, middle)))
    root = np.exp(_plane(waves, omega, scale, inside, inside) / 2)

    def operate(u: Array) -> Array:
        u = np.pad(u, ((0, 0), (1, 1), (1, 1)))
        first = np.diff(along * np.diff(u[:, :, 1:-1], axis=1), axis=1)
        return -(first + np.diff(across * np.diff(u[:, 1:-1], axis=2), axis=2)) * cells**2

    # −∇·(a∇u) = √a (−Δ + Δ√a/√a) √a u: but for a bounded term, Poisson's equation between two roots.
    k = np.arange(1, cells)
    eigenvalues = (2 * cells * np.sin(np.pi * k / (2 * cells))) ** 2
    laplacian = eigenvalues[:, None] + eigenvalues

    def precondition(r: Array) -> Array:
        return fft.idstn(fft.dstn(r / root, type=1, axes=(1, 2)) / laplacian, type=1, axes=(1, 2)) / root

    right = np.full((len(waves), cells - 1, cells - 1), 10.0)
    return np.pad(conjugate_gradients(operate, right, precondition), ((0, 0), (1, 1), (1, 1)))


def conjugate_gradients(
    operate: Callable[[Array], Array],
    right: Array,
    precondition: Callable[[Array], Array],
    *,
    tolerance: float = 1e-10,
    iterations: int = 200,
) -> Array:
    """Solutions of symmetric positive definite systems, one for each row of `right`, all at once.

    **Raises:** `RuntimeError` when a relative residual is above `tolerance` at the end.
    """
    dot = lambda a, b: (a * b).sum(axis=tuple(range(1, right.ndim)), keepdims=True)
    x, r = np.zeros_like(right), right.copy()
    z = precondition(r)
    p, rz, goal = z, dot(r, z), tolerance**2 * dot(right, right)
    for _ in range(iterations):
        if np.all(dot(r, r) <= goal):
            return x
        q = operate(p)
        # Rows that are done have r = 0 at some time, and then stay.
        t = rz / np.maximum(dot(p, q), np.finfo(float).tiny)
        x, r = x + t * p, r - t * q
        z = precondition(r)
        rz, before = dot(r, z), rz
        p = z + rz / np.maximum(before, np.finfo(float).tiny) * p
    raise RuntimeError(
        f"Conjugate gradients left a relative residual of {np.sqrt((dot(r, r) / dot(right, right)).max()):.1e} after "
        f"{iterations} iterations."
    )


# ------------------------------------------------------------------------------------------------ Burgers' equation


def burgers(
    functions: int,
    tests: int,
    *,
    grid: int = 128,
    viscosity: float = 0.1,
    seed: int = 0,
    points: int = 256,
    steps: int | None = None,
) -> OperatorData:
    """u_t + u u_x = viscosity u_xx on the circle of length 1: u(·, 0) and u(·, 1) on an equidistant grid.

    u(·, 0) is a Gaussian field with covariance 625(−Δ + 25I)⁻², of Fourier modes up to grid/2.

    Method. Fourier Galerkin: the square is evaluated on twice as many points as there are modes, which removes all
    aliasing; ETDRK4 in time (`reference.etdrk4_stepper`), all functions at once. Smaller viscosities take more steps.

    Accuracy: 2e-7 in relative L2 by default, against twice the points and four times the steps.

    Source: Li et al., *Fourier neural operator for parametric partial differential equations*, 2021, section 5.1.
    """
    require(functions=functions, tests=tests)
    if not (viscosity > 0 and grid >= 4 and points % grid == 0):
        raise ValueError(
            f"burgers: the viscosity must be positive and points a multiple of grid ≥ 4, got {viscosity=}, {points=}, "
            f"{grid=}."
        )
    found: list[Array] = []
    steps = max(100, int(np.ceil(10 / viscosity))) if steps is None else steps
    k = np.arange(points // 2)
    advance = etdrk4_stepper(
        -viscosity * (2 * np.pi * k) ** 2,
        lambda c: -1j * np.pi * k * _square(c, points),
        1 / steps,
    )
    for count, rng in zip((functions, tests), sources(seed), strict=True):
        low = np.arange(grid // 2)
        deviation = 25 / ((2 * np.pi * low) ** 2 + 25) * np.where(low == 0, 1, np.sqrt(0.5))
        real, imaginary = rng.standard_normal((2, count, grid // 2))
        c = np.zeros((count, points // 2), complex)
        c[:, : grid // 2] = deviation * (real + np.where(low == 0, 0, 1j) * imaginary)
        found.append(_values(c, points)[:, :: points // grid])
        with np.errstate(over="ignore", invalid="ignore"):
            for _ in range(steps):
                c = advance(c)
        if not np.isfinite(c).all():
            raise ValueError(f"burgers: {steps} steps and {points} points are too few for a viscosity of {viscosity}.")
        found.append(_values(c, points)[:, :: points // grid])
    return OperatorData(*found)


def _values(c: Array, points: int) -> Array:
    """Σ c_k e^{2πikx}, with c₋ₖ the conjugate of c_k, on an equidistant grid."""
    return np.asarray(fft.irfft(c, points, axis=-1, norm="forward"))


def _square(c: Array, points: int) -> Array:
    """The Fourier coefficients of the square, as many as there are of the function."""
    return np.asarray(fft.rfft(_values(c, 2 * points) ** 2, axis=-1, norm="forward"))[:, : points // 2]


# -------------------------------------------------------------------------------------------------------- kept on disk

VERSION = 1  # of the data: raised when the same settings give other numbers


def cache_folder() -> Path | None:
    """Where data are kept between runs: ravine/operators in the user's cache folder; None with RAVINE_NO_CACHE=1."""
    if os.environ.get("RAVINE_NO_CACHE", "") not in ("", "0"):
        return None
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ravine" / "operators"
    except RuntimeError:  # no home
        return None


def stored(make: Callable[..., OperatorData], functions: int, tests: int, **settings: float | int) -> OperatorData:
    """`make(functions, tests, **settings)`, from the cache folder where it was made before, and else put there.

    A file appears whole or not at all, also when several processes write it. A folder that cannot be written is no
    error: the data are then made each time.

    **Raises:** `ValueError` for a file that is damaged, or whose arrays have other shapes than were asked for.
    """
    folder = cache_folder()
    told = "-".join([make.__name__, f"v{VERSION}", str(functions), str(tests), *map(str, settings.values())])
    if folder is None:
        return make(functions, tests, **settings)
    path = folder / f"{told}.npz"
    if path.exists():
        return read(path, functions, tests)
    data = check(make(functions, tests, **settings), make.__name__)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            np.savez(file, **data._asdict())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        pass
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return data


def read(path: Path, functions: int | None = None, tests: int | None = None) -> OperatorData:
    """The data in an .npz file with the arrays inputs, outputs, test_inputs and test_outputs.

    **Raises:** `ValueError` for a file that cannot be read, lacks an array, or whose shapes do not fit.
    """
    remedy = f"Delete it, and it is made anew: rm '{path}'"
    try:
        # Opened here, since NumPy leaves a file open that it cannot read.
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            data = OperatorData(*(np.asarray(file[name]) for name in OperatorData._fields))
    except KeyError as error:
        raise ValueError(f"The data file {path} has no array {error.args[0]!r:.80}. {remedy}") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"The data file {path} is damaged ({error}). {remedy}") from None
    try:
        check(data, f"The data file {path}")
    except ValueError as error:
        raise ValueError(f"{error} {remedy}") from None
    counts = (len(data.inputs), len(data.test_inputs))
    if (functions, tests) not in (counts, (None, None)):
        raise ValueError(
            f"The data file {path} holds {counts[0]} functions and {counts[1]} tests, but should hold {functions} and "
            f"{tests}. {remedy}"
        )
    return data
