"""Fourier neural operators: maps from functions on a grid to functions on the same grid, in any dimension."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from ravine._types import Array, Float, RandomKey


class SpectralConvolution(eqx.Module):
    """v ↦ F⁻¹(R · Fv): low Fourier modes multiplied by a matrix each, the others left out.

    A mode has `(outputs, inputs)` complex weights, held as the real arrays `real` and `imaginary` of shape
    `(outputs, inputs, 2m₁, …, 2m_{d−1}, m_d)`: frequencies −m … m − 1 along every axis but the last, where those of a
    real function are determined by 0 … m − 1.
    """

    real: Array
    imaginary: Array

    def __init__(self, inputs: int, outputs: int, modes: tuple[int, ...], *, key: RandomKey):
        shape = (outputs, inputs, *(2 * m for m in modes[:-1]), modes[-1])
        scale = 1 / jnp.sqrt(2.0 * inputs)
        self.real, self.imaginary = scale * jax.random.normal(key, (2, *shape))

    def __call__(self, v: Float[Array, "inputs *grid"]) -> Float[Array, "outputs *grid"]:
        grid, kept = v.shape[1:], self.real.shape[2:]
        axes = tuple(range(1, v.ndim))
        if any(k > n for k, n in zip(kept[:-1], grid[:-1], strict=True)) or kept[-1] > grid[-1] // 2 + 1:
            raise ValueError(
                f"FNO: a grid of {' × '.join(map(str, grid))} points cannot carry {_modes(kept)} modes: an axis of n "
                "points has n/2 of them. Give a finer grid, or FNO(modes=…) fewer."
            )
        spectrum = jnp.fft.rfftn(v, axes=axes)
        low = _low(spectrum, kept)
        # Real products: those of complex matrices are slow on a CPU.
        times = lambda weights, part: jnp.einsum("oi...,i...->o...", weights, part)
        real = times(self.real, low.real) - times(self.imaginary, low.imag)
        imaginary = times(self.real, low.imag) + times(self.imaginary, low.real)
        return jnp.fft.irfftn(_spread(jax.lax.complex(real, imaginary), spectrum.shape[1:]), s=grid, axes=axes)


def _modes(kept: tuple[int, ...]) -> str:
    return " × ".join(str(k // 2) for k in kept[:-1]) + (" × " if kept[1:] else "") + str(kept[-1])


def _low(spectrum, kept):
    """The corners of a spectrum: frequencies 0 … m − 1, then −m … −1, along each axis but the last."""
    spectrum = spectrum[..., : kept[-1]]
    for axis, k in enumerate(kept[:-1], start=1):
        ends = jnp.split(spectrum, (k // 2, spectrum.shape[axis] - k // 2), axis=axis)
        spectrum = jnp.concatenate([ends[0], ends[2]], axis=axis)
    return spectrum


def _spread(low, shape):
    """The spectrum with these corners, and zeros between them."""
    for axis, size in enumerate(shape[:-1], start=1):
        first, last = jnp.split(low, 2, axis=axis)
        gap = list(low.shape)
        gap[axis] = size - low.shape[axis]
        low = jnp.concatenate([first, jnp.zeros(gap, low.dtype), last], axis=axis)
    return jnp.pad(low, [(0, 0)] * (low.ndim - 1) + [(0, shape[-1] - low.shape[-1])])


class FNO(eqx.Module):
    """A Fourier neural operator: a ↦ Q(v_L), v_{l+1} = σ(K_l v_l + W_l v_l + c_l), v₀ = P(a, x), on a grid of any size.

    K_l is a `SpectralConvolution`, P and Q act at each grid point; x, the place in [0, 1]ᵈ, is given along with a. The
    last layer has no σ, and Q one hidden layer of `projection` units. The dimension is that of `modes`.

    **Arguments:** `modes`: how many Fourier modes are kept along each axis; `width`: channels; `depth`: layers;
    `inputs`: values of a at a grid point, in which case a has a last axis for them, or "scalar"; `padding`: grid points
    of zeros put at the end of each axis before the layers, for functions that are not periodic.

    **Cost:** a grid point takes 2·depth·width² multiplications for the W_l, and two transforms of `width` channels a
    layer; the modes take 4·depth·width²·Π(2m) in all.

    Zongyi Li, Nikola Kovachki, Kamyar Azizzadenesheli, Burigede Liu, Kaushik Bhattacharya, Andrew Stuart and Anima
    Anandkumar, *Fourier neural operator for parametric partial differential equations*, ICLR 2021, equations 2 to 5.

    ```python
    >>> import jax, jax.numpy as jnp, ravine as rv
    >>> net = rv.models.FNO((3, 3), width=4, depth=2, key=jax.random.key(0))
    >>> jax.eval_shape(net, jnp.ones((8, 9))).shape
    (8, 9)

    ```
    """

    lift: tuple[Array, Array]
    spectral: tuple[SpectralConvolution, ...]
    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    projection: tuple[Array, Array, Array, Array]
    scalar: bool = eqx.field(static=True)
    padding: int = eqx.field(static=True)
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        modes: tuple[int, ...],
        *,
        width: int = 32,
        depth: int = 4,
        inputs: int | str = "scalar",
        projection: int = 128,
        padding: int = 0,
        activation: Callable[[Array], Array] = jax.nn.gelu,
        key: RandomKey,
    ):
        channels = 1 if inputs == "scalar" else int(inputs)
        if not modes or min(*modes, width, depth, channels, projection) < 1 or padding < 0:
            raise ValueError(
                f"FNO: modes, width, depth, inputs and projection must be at least 1 and padding at least 0, got "
                f"{modes=}, {width=}, {depth=}, {inputs=}, {projection=}, {padding=}."
            )
        self.scalar, self.padding, self.activation = inputs == "scalar", padding, activation
        keys = iter(jax.random.split(key, 2 * depth + 3))
        matrix = lambda a, b: jnp.sqrt(2 / (a + b)) * jax.random.normal(next(keys), (b, a))
        self.lift = (matrix(channels + len(modes), width), jnp.zeros(width))
        self.spectral = tuple(SpectralConvolution(width, width, modes, key=next(keys)) for _ in range(depth))
        self.weights = tuple(matrix(width, width) for _ in range(depth))
        self.biases = tuple(jnp.zeros(width) for _ in range(depth))
        self.projection = (matrix(width, projection), jnp.zeros(projection), matrix(projection, 1), jnp.zeros(1))

    def __call__(self, a: Float[Array, "..."]) -> Float[Array, "*grid"]:
        grid = a.shape if self.scalar else a.shape[:-1]
        if len(grid) != len(self.spectral[0].real.shape) - 2:
            raise ValueError(
                f"FNO: the function has shape {a.shape}, but the modes are those of "
                f"{len(self.spectral[0].real.shape) - 2} dimensions."
            )
        places = jnp.meshgrid(*(jnp.linspace(0, 1, n, dtype=a.dtype) for n in grid), indexing="ij")
        values = a[None] if self.scalar else jnp.moveaxis(a, -1, 0)
        v = _pointwise(*self.lift, jnp.concatenate([values, jnp.stack(places)]))
        v = jnp.pad(v, [(0, 0)] + [(0, self.padding)] * len(grid))
        for number, (spectral, weight, bias) in enumerate(zip(self.spectral, self.weights, self.biases, strict=True)):
            v = spectral(v) + _pointwise(weight, bias, v)
            v = self.activation(v) if number + 1 < len(self.spectral) else v
        v = v[(slice(None), *(slice(n) for n in grid))]
        first, bias, last, offset = self.projection
        return _pointwise(last, offset, self.activation(_pointwise(first, bias, v)))[0]


def _pointwise(weight, bias, v):
    """W v + c at each grid point."""
    return jnp.tensordot(weight, v, axes=1) + bias.reshape(-1, *(1,) * (v.ndim - 1))
