"""The problems as a user of PyTorch would write them: batches of points and `torch.autograd.grad`."""

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from benchmarks.start import Start

PI = float(np.pi)


class Solution(torch.nn.Module):
    """u(z) for points (m, 2), as a column (m, 1): the network of `start` under its problem's conditions."""

    def __init__(self, start: Start):
        super().__init__()
        self.problem, self.options = start.problem, start.options
        tensors = [torch.tensor(array) for layer in start.params for array in layer]
        self.arrays = torch.nn.ParameterList(torch.nn.Parameter(tensor) for tensor in tensors)

    def mlp(self, *columns: torch.Tensor, activation=torch.tanh) -> torch.Tensor:
        x = torch.cat(columns, dim=1)
        layers = list(zip(self.arrays[::2], self.arrays[1::2], strict=True))
        for weight, bias in layers[:-1]:
            x = activation(torch.nn.functional.linear(x, weight, bias))
        return torch.nn.functional.linear(x, *layers[-1])

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        x, t = z[:, :1], z[:, 1:]
        if self.problem == "burgers":
            odd = (self.mlp(x, 2 * t - 1) - self.mlp(-x, 2 * t - 1)) / 2
            return -torch.sin(PI * x) + t * (1 - x**2) * odd
        if self.problem == "poisson2d":
            return 16 * x * (1 - x) * t * (1 - t) * self.mlp(2 * x - 1, 2 * t - 1)
        if self.problem == "allen_cahn":
            s, w = 2 / PI * torch.cos(PI * x / 2), torch.sqrt(4e-4 * (t + 1e-10))
            kink = PI / 2 * (s * torch.erf(s / w) + w * torch.exp(-((s / w) ** 2)) / PI**0.5)
            return self.mlp(2 * t - 1, *(torch.cos(j * PI * x) for j in (1, 2, 3, 4)), 2 * kink - 1)
        if self.problem == "convection":
            network = self.mlp(40 * t - 20, -torch.cos(x), -torch.sin(x), activation=torch.sin)
            return torch.sin(x) + t * network
        if self.problem == "reaction":
            folded = PI - torch.abs(x - PI)
            gaussian = torch.exp(-((x - PI) ** 2) / (2 * (PI / 4) ** 2))
            return gaussian + t * self.mlp(2 * folded / PI - 1, 2 * t - 1)
        raise ValueError(f"There is no statement of the problem {self.problem!r} in PyTorch: write it in this file.")

    def predict(self, grid: torch.Tensor) -> np.ndarray:
        """u on a grid, as a vector."""
        with torch.no_grad():
            return self(grid)[:, 0].numpy()


def residual(start: Start, z: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """The equation's residual at the points z, which need gradients, where the solution is u: a column."""

    def gradient(of, coordinate):
        return torch.autograd.grad(of, z, torch.ones_like(of), create_graph=True)[0][:, coordinate : coordinate + 1]

    # One backward pass gives both first derivatives.
    slopes = torch.autograd.grad(u, z, torch.ones_like(u), create_graph=True)[0]
    u_x, u_t = slopes[:, :1], slopes[:, 1:]
    if start.problem == "burgers":
        return u_t + u * u_x - 0.01 / PI * gradient(u_x, 0)
    if start.problem == "poisson2d":
        k = start.options["k"]
        source = torch.sin(k * PI * z[:, :1]) * torch.sin(k * PI * z[:, 1:])
        return -(gradient(u_x, 0) + gradient(u_t, 1)) / (2 * (k * PI) ** 2) - source
    if start.problem == "allen_cahn":
        return u_t - 1e-4 * gradient(u_x, 0) - 5 * (u - u**3)
    if start.problem == "convection":
        return u_x + u_t / 40
    if start.problem == "reaction":
        return u_t - 5 * u * (1 - u)
    raise ValueError(f"There is no statement of the problem {start.problem!r} in PyTorch: write it in this file.")


def target(start: Start) -> dict[str, tuple[np.ndarray, float]]:
    """Values that the solution shall have at the points of a term, and the term's weight; for all terms but `pde`."""
    if start.problem == "allen_cahn":
        x = start.points["ic"][:, :1]
        return {"ic": (x**2 * np.cos(PI * x), 100.0)}
    return {}


def loss(start: Start, solution: torch.nn.Module, points: dict[str, torch.Tensor]) -> torch.Tensor:
    """Σ weight · mean ½r²."""
    z = points["pde"].detach().requires_grad_()
    total = torch.mean(residual(start, z, solution(z)) ** 2) / 2
    for name, (values, weight) in target(start).items():
        total = total + weight * torch.mean((solution(points[name]) - torch.as_tensor(values)) ** 2) / 2
    return total


def tensors(points: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Points as tensors."""
    return {name: torch.as_tensor(value) for name, value in points.items()}


def residual_at(start: Start, solution: torch.nn.Module, pool: np.ndarray) -> np.ndarray:
    """The equation's residual at candidates, for drawing points."""
    z = torch.as_tensor(pool).requires_grad_()
    return residual(start, z, solution(z)).detach().numpy()[:, 0]
