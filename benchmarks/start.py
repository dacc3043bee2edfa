"""Where every method starts: one `.npz` for each problem and seed, written from ravine, read with NumPy alone."""

import dataclasses
from pathlib import Path

import numpy as np

# The benchmark problems: what to call ravine's problem with.
PROBLEMS: dict[str, dict] = {
    "burgers": {},
    "poisson2d": {"k": 4, "points": 2_000, "width": 30},
    "allen_cahn": {},
    "convection": {},
    "reaction": {},
}
# What `micro` measures on, besides: name -> ravine's problem and its options.
SIZED: dict[str, tuple[str, dict]] = {
    "burgers-10000": ("burgers", {"points": 10_000, "width": 20, "depth": 4}),
    "poisson2d-501": ("poisson2d", {"points": 1_100, "width": 20, "depth": 2}),  # 501 parameters
    "poisson2d-1981": ("poisson2d", {"points": 4_000, "width": 30, "depth": 3}),  # 1,981 parameters
}

AGREEMENT = 1e-12  # relative difference allowed between ravine's loss and a peer's at the start


@dataclasses.dataclass(frozen=True)
class Start:
    """Parameters, points and the solution, as plain arrays.

    `params` are (W, b) of each layer, W of shape (out, in); `points` are (m, d) for each term; `grid` is (g, d) and
    `exact` (g,); `loss` is ravine's at these parameters and points; `low`, `high` bound the points. `adaptive` says
    that ravine's own problem redraws its points by residual; the peers then do too.
    """

    problem: str
    options: dict
    seed: int
    params: list[tuple[np.ndarray, np.ndarray]]
    points: dict[str, np.ndarray]
    grid: np.ndarray
    exact: np.ndarray
    low: np.ndarray
    high: np.ndarray
    loss: float
    adaptive: bool

    @property
    def theta(self) -> np.ndarray:
        """All parameters in one vector, W and b of each layer in turn: the order in which pytrees are flattened."""
        return np.concatenate([array.ravel() for layer in self.params for array in layer])

    def unflatten(self, theta: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """`params` of a flat vector."""
        layers, at = [], 0
        for weight, bias in self.params:
            end = at + weight.size
            layers.append((theta[at:end].reshape(weight.shape), theta[end : end + bias.size]))
            at = end + bias.size
        return layers

    def check(self, loss: float) -> None:
        """**Raises:** `ValueError` unless a peer's loss at the start is ravine's."""
        if not abs(loss - self.loss) <= AGREEMENT * abs(self.loss):
            raise ValueError(
                f"{self.problem}, seed {self.seed}: the peer's loss at the start is {loss!r}, ravine's {self.loss!r}. "
                "The statements differ (network, residual, weights or points), so that nothing can be compared. Look "
                "at benchmarks/statements.py or benchmarks/torch_statements.py beside src/ravine/problems."
            )

    def save(self, path: Path) -> None:
        """Writes the file, whole or not at all."""
        arrays = {f"points/{name}": points for name, points in self.points.items()}
        for number, (weight, bias) in enumerate(self.params):
            arrays |= {f"weight/{number}": weight, f"bias/{number}": bias}
        partial = path.with_suffix(".partial.npz")
        np.savez(
            partial,
            problem=self.problem,
            options=repr(self.options),
            seed=self.seed,
            grid=self.grid,
            exact=self.exact,
            low=self.low,
            high=self.high,
            loss=self.loss,
            adaptive=self.adaptive,
            **arrays,  # pyright: ignore[reportArgumentType]
        )
        partial.replace(path)


def load(path: Path) -> Start:
    """Reads what `Start.save` wrote."""
    import ast

    with np.load(path, allow_pickle=False) as file:
        data = dict(file)
    layers = sum(name.startswith("weight/") for name in data)
    return Start(
        problem=str(data["problem"]),
        options=ast.literal_eval(str(data["options"])),
        seed=int(data["seed"]),
        params=[(data[f"weight/{i}"], data[f"bias/{i}"]) for i in range(layers)],
        points={name.removeprefix("points/"): value for name, value in data.items() if name.startswith("points/")},
        grid=data["grid"],
        exact=data["exact"],
        low=data["low"],
        high=data["high"],
        loss=float(data["loss"]),
        adaptive=bool(data["adaptive"]),
    )
