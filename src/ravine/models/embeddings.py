"""What stands before a network: scaling, periodicity, frequencies. None of these holds parameters."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ravine._types import Array, Float, Point, RandomKey
from ravine.jets import elementwise, taylor
from ravine.models.layers import Jet


class Compose(eqx.Module):
    """x ↦ f_k(… f₁(x)): the parts in the order of application.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> rv.models.Compose(rv.models.Scale((0.0,), (4.0,)), lambda x: 10 * x)(jnp.array([3.0])).tolist()
    [5.0]

    ```
    """

    parts: tuple[Callable[[Any], Any], ...]

    def __init__(self, *parts: Callable[[Any], Any]):
        self.parts = parts

    def __call__(self, x):
        for part in self.parts:
            x = part(x)
        return x

    def taylor(self, z, curves):
        """See `ravine.taylor`."""
        for part in self.parts:
            z, curves = taylor(part, z, curves)
        return z, curves


class Scale(eqx.Module):
    """The affine map of the box [low, high] onto Π [−span_i, span_i], by default [−1, 1]ᵈ.

    Inputs of size one suit smooth activations; a larger span makes faster variation along that coordinate reachable,
    as in units of time in which a speed of 40 becomes one.
    """

    low: tuple[float, ...] = eqx.field(static=True)
    high: tuple[float, ...] = eqx.field(static=True)
    span: tuple[float, ...] = eqx.field(static=True)

    def __init__(self, low, high, *, span=None):
        self.low, self.high = tuple(map(float, np.ravel(low))), tuple(map(float, np.ravel(high)))
        self.span = (1.0,) * len(self.low) if span is None else tuple(map(float, np.ravel(span)))
        if not len(self.low) == len(self.high) == len(self.span) or any(
            a >= b for a, b in zip(self.low, self.high, strict=True)
        ):
            raise ValueError(
                f"Scale: each coordinate needs low < high and a span, got {self.low=}, {self.high=}, {self.span=}."
            )

    def __call__(self, x: Point) -> Point:
        return self._factor(x) * (x - jnp.asarray(self.low, x.dtype)) - jnp.asarray(self.span, x.dtype)

    def _factor(self, x):
        span, low, high = (jnp.asarray(numbers, x.dtype) for numbers in (self.span, self.low, self.high))
        return 2 * span / (high - low)

    def taylor(self, z, curves):
        """See `ravine.taylor`."""
        factor = self._factor(z)
        return self(z), jax.tree.map(lambda leaf: factor * leaf, curves)


class Periodic(eqx.Module):
    """Replaces one coordinate by cos and sin of its first `harmonics` multiples: exact periodicity, all derivatives.

    Suchuan Dong and Naxian Ni, *A method for representing periodic functions and enforcing exactly periodic boundary
    conditions with deep neural networks*, 2021. The output holds the other coordinates first, then the cosines and
    sines: d − 1 + 2·harmonics numbers. With `even`, cosines only, for solutions that are even in the coordinate:
    d − 1 + harmonics numbers.
    """

    axis: int = eqx.field(static=True)
    period: float = eqx.field(static=True)
    harmonics: int = eqx.field(static=True)
    even: bool = eqx.field(static=True)

    def __init__(self, axis: int, period: float, *, harmonics: int = 1, even: bool = False):
        if period <= 0 or harmonics < 1:
            raise ValueError(f"Periodic: period and harmonics must be positive, got {period=}, {harmonics=}.")
        self.axis, self.period, self.harmonics, self.even = axis, float(period), harmonics, even

    def __call__(self, x: Point) -> Float[Array, "k"]:
        return self.taylor(x, ())[0]

    def taylor(self, z, curves):
        """See `ravine.taylor`."""
        numbers = (2 * np.pi / self.period) * jnp.arange(1, self.harmonics + 1, dtype=z.dtype)
        angles = jax.tree.map(lambda leaf: leaf[self.axis] * numbers, (z, curves))
        rest = jax.tree.map(lambda leaf: jnp.delete(leaf, self.axis, assume_unique_indices=True), (z, curves))
        functions = (jnp.cos,) if self.even else (jnp.cos, jnp.sin)
        return _joined(rest, *(elementwise(function, *angles) for function in functions))


class Fourier(eqx.Module):
    """x ↦ (cos Bx, sin Bx) with a fixed random B ~ N(0, scale²): makes high frequencies reachable.

    Matthew Tancik et al., *Fourier features let networks learn high frequency functions in low dimensional domains*,
    2020. B is held as numbers, not as parameters. The output has 2·features numbers.
    """

    frequencies: tuple[tuple[float, ...], ...] = eqx.field(static=True)

    def __init__(self, inputs: int, features: int, *, scale: float = 1.0, key: RandomKey):
        drawn = scale * jax.random.normal(key, (features, inputs))
        self.frequencies = tuple(tuple(map(float, row)) for row in np.asarray(drawn))

    def __call__(self, x: Point) -> Float[Array, "k"]:
        return self.taylor(x, ())[0]

    def taylor(self, z, curves):
        """See `ravine.taylor`."""
        frequencies = jnp.asarray(self.frequencies, z.dtype).T
        angles = jax.tree.map(lambda leaf: leaf @ frequencies, (z, curves))
        return _joined(elementwise(jnp.cos, *angles), elementwise(jnp.sin, *angles))


class Outputs(eqx.Module):
    """u(z) = shift + scale · N(z): an output of the size that the solution has, from a network of size one.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> float(rv.models.Outputs(lambda z: z[0], scale=300.0, shift=20.0)(jnp.array([0.5])))
    170.0

    ```

    **Arguments:** `scale`, not zero, and `shift`: numbers, or one for each output.

    **Raises:** `ValueError` for a scale that is zero, or numbers that are not finite.
    """

    network: Any
    scale: float | tuple[float, ...] = eqx.field(static=True)
    shift: float | tuple[float, ...] = eqx.field(static=True)

    def __init__(self, network: Callable[[Any], Any], *, scale: Any = 1.0, shift: Any = 0.0):
        self.network, self.scale, self.shift = network, _numbers(scale), _numbers(shift)
        if not (np.all(np.isfinite(self.scale)) and np.all(self.scale) and np.all(np.isfinite(self.shift))):
            raise ValueError(f"Outputs: scale must be finite and not zero, shift finite, got {scale=}, {shift=}.")

    def __call__(self, z):
        return self.taylor(z, ())[0]

    def taylor(self, z, curves):
        """See `ravine.taylor`."""
        value, derivatives = taylor(self.network, z, curves)
        scale, shift = jnp.asarray(self.scale, value.dtype), jnp.asarray(self.shift, value.dtype)
        return shift + scale * value, jax.tree.map(lambda leaf: scale * leaf, derivatives)


def _numbers(given: Any) -> float | tuple[float, ...]:
    return float(given) if np.ndim(given) == 0 else tuple(map(float, np.ravel(given)))


def _joined(*jets: Jet) -> Jet:
    """One vector out of several."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *jets)
