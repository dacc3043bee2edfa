"""The classical test functions, as residuals with standard starts and known minima.

Jorge Moré, Burton Garbow and Kenneth Hillstrom, *Testing unconstrained optimization software*, ACM Trans. Math. Softw.
1981 (its numbers in brackets), and two more. `minima` are values of Σ r², global and local, that methods may end at.
"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Classical:
    """Residuals, standard start, and the values of Σ r² at known minima."""

    residuals: Callable
    start: tuple[float, ...]
    minima: tuple[float, ...] = (0.0,)


def _steps(count, first=1):
    return jnp.arange(first, first + count, dtype=float)


def rosenbrock(x):
    """[1, 21]"""
    return jnp.concatenate([10 * (x[1::2] - x[::2] ** 2), 1 - x[::2]])


def freudenstein_roth(x):
    """[2]"""
    return jnp.stack(
        [-13 + x[0] + ((5 - x[1]) * x[1] - 2) * x[1], -29 + x[0] + ((x[1] + 1) * x[1] - 14) * x[1]],
    )


def powell_badly_scaled(x):
    """[3]"""
    return jnp.stack([1e4 * x[0] * x[1] - 1, jnp.exp(-x[0]) + jnp.exp(-x[1]) - 1.0001])


def brown_badly_scaled(x):
    """[4]"""
    return jnp.stack([x[0] - 1e6, x[1] - 2e-6, x[0] * x[1] - 2])


def beale(x):
    """[5]"""
    return jnp.array([1.5, 2.25, 2.625]) - x[0] * (1 - x[1] ** _steps(3))


def jennrich_sampson(x):
    """[6]"""
    i = _steps(10)
    return 2 + 2 * i - (jnp.exp(i * x[0]) + jnp.exp(i * x[1]))


def helical_valley(x):
    """[7]"""
    angle = jnp.arctan(x[1] / x[0]) / (2 * jnp.pi) + jnp.where(x[0] < 0, 0.5, 0.0)
    return jnp.stack([10 * (x[2] - 10 * angle), 10 * (jnp.sqrt(x[0] ** 2 + x[1] ** 2) - 1), x[2]])


def bard(x):
    """[8]"""
    y = jnp.array([0.14, 0.18, 0.22, 0.25, 0.29, 0.32, 0.35, 0.39, 0.37, 0.58, 0.73, 0.96, 1.34, 2.10, 4.39])
    u = _steps(15)
    v = 16 - u
    return y - (x[0] + u / (v * x[1] + jnp.minimum(u, v) * x[2]))


def gaussian(x):
    """[9]"""
    half = [0.0009, 0.0044, 0.0175, 0.0540, 0.1295, 0.2420, 0.3521]
    y = jnp.array([*half, 0.3989, *half[::-1]])
    t = (8 - _steps(15)) / 2
    return x[0] * jnp.exp(-x[1] * (t - x[2]) ** 2 / 2) - y


def meyer(x):
    """[10]"""
    y = [34780, 28610, 23650, 19630, 16370, 13720, 11540, 9744, 8261, 7030, 6005, 5147, 4427, 3820, 3307, 2872]
    return x[0] * jnp.exp(x[1] / (45 + 5 * _steps(16) + x[2])) - jnp.array(y, float)


def gulf(x):
    """[11]"""
    t = _steps(99) / 100
    y = 25 + (-50 * jnp.log(t)) ** (2 / 3)
    return jnp.exp(-(jnp.abs(y - x[1]) ** x[2]) / x[0]) - t


def box(x):
    """[12]"""
    t = 0.1 * _steps(10)
    return jnp.exp(-t * x[0]) - jnp.exp(-t * x[1]) - x[2] * (jnp.exp(-t) - jnp.exp(-10 * t))


def powell_singular(x):
    """[13, 22]"""
    a, b, c, d = x[::4], x[1::4], x[2::4], x[3::4]
    return jnp.concatenate([a + 10 * b, 5**0.5 * (c - d), (b - 2 * c) ** 2, 10**0.5 * (a - d) ** 2])


def wood(x):
    """[14]"""
    return jnp.stack(
        [
            10 * (x[1] - x[0] ** 2),
            1 - x[0],
            90**0.5 * (x[3] - x[2] ** 2),
            1 - x[2],
            10**0.5 * (x[1] + x[3] - 2),
            (x[1] - x[3]) / 10**0.5,
        ]
    )


def kowalik_osborne(x):
    """[15]"""
    y = jnp.array([0.1957, 0.1947, 0.1735, 0.1600, 0.0844, 0.0627, 0.0456, 0.0342, 0.0323, 0.0235, 0.0246])
    u = jnp.array([4, 2, 1, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625])
    return y - x[0] * (u**2 + u * x[1]) / (u**2 + u * x[2] + x[3])


def brown_dennis(x):
    """[16]"""
    t = _steps(20) / 5
    return (x[0] + t * x[1] - jnp.exp(t)) ** 2 + (x[2] + x[3] * jnp.sin(t) - jnp.cos(t)) ** 2


def osborne_1(x):
    """[17]"""
    y = """.844 .908 .932 .936 .925 .908 .881 .850 .818 .784 .751 .718 .685 .658 .628 .603 .580 .558 .538 .522 .506 .490
    .478 .467 .457 .448 .438 .431 .424 .420 .414 .411 .406"""
    t = 10 * _steps(33, 0)
    return jnp.asarray(np.array(y.split(), float)) - (x[0] + x[1] * jnp.exp(-t * x[3]) + x[2] * jnp.exp(-t * x[4]))


def biggs(x):
    """[18]"""
    t = 0.1 * _steps(13)
    y = jnp.exp(-t) - 5 * jnp.exp(-10 * t) + 3 * jnp.exp(-4 * t)
    return x[2] * jnp.exp(-t * x[0]) - x[3] * jnp.exp(-t * x[1]) + x[5] * jnp.exp(-t * x[4]) - y


def osborne_2(x):
    """[19]"""
    y = """1.366 1.191 1.112 1.013 .991 .885 .831 .847 .786 .725 .746 .679 .608 .655 .616 .606 .602 .626 .651 .724 .649
    .649 .694 .644 .624 .661 .612 .558 .533 .495 .500 .423 .395 .375 .372 .391 .396 .405 .428 .429 .523 .562 .607 .653
    .672 .708 .633 .668 .645 .632 .591 .559 .597 .625 .739 .710 .729 .720 .636 .581 .428 .292 .162 .098 .054"""
    t = _steps(65, 0) / 10
    bumps = [x[k] * jnp.exp(-((t - x[k + 7]) ** 2) * x[k + 4]) for k in (1, 2, 3)]
    return jnp.asarray(np.array(y.split(), float)) - (x[0] * jnp.exp(-t * x[4]) + sum(bumps))


def watson(x):
    """[20]"""
    t, j = _steps(29)[:, None] / 29, _steps(len(x), 0)[None, :]
    slope = (t ** jnp.maximum(j - 1, 0) * j) @ x
    return jnp.append(slope - (t**j @ x) ** 2 - 1, jnp.stack([x[0], x[1] - x[0] ** 2 - 1]))


def penalty_1(x):
    """[23]"""
    return jnp.append(1e-5**0.5 * (x - 1), jnp.sum(x**2) - 0.25)


def penalty_2(x):
    """[24]"""
    i, root, e = _steps(len(x)), 1e-5**0.5, jnp.exp(x / 10)
    y = jnp.exp(i[1:] / 10) + jnp.exp((i[1:] - 1) / 10)
    parts = [x[:1] - 0.2, root * (e[1:] + e[:-1] - y), root * (e[1:] - np.exp(-0.1)), jnp.sum(i[::-1] * x**2)[None] - 1]
    return jnp.concatenate(parts)


def variably_dimensioned(x):
    """[25]"""
    total = jnp.sum(_steps(len(x)) * (x - 1))
    return jnp.append(x - 1, jnp.stack([total, total**2]))


def trigonometric(x):
    """[26]"""
    return len(x) - jnp.sum(jnp.cos(x)) + _steps(len(x)) * (1 - jnp.cos(x)) - jnp.sin(x)


def brown_almost_linear(x):
    """[27]"""
    return jnp.append(x[:-1] + jnp.sum(x) - (len(x) + 1), jnp.prod(x) - 1)


def boundary_value(x):
    """[28]"""
    t = _steps(len(x)) / (len(x) + 1)
    padded = jnp.pad(x, 1)
    return 2 * x - padded[:-2] - padded[2:] + (x + t + 1) ** 3 / (2 * (len(x) + 1) ** 2)


def integral_equation(x):
    """[29]"""
    h = 1 / (len(x) + 1)
    t = h * _steps(len(x))
    cube = (x + t + 1) ** 3
    below, above = jnp.cumsum(t * cube), jnp.sum((1 - t) * cube) - jnp.cumsum((1 - t) * cube)
    return x + h * ((1 - t) * below + t * above) / 2


def broyden_tridiagonal(x):
    """[30]"""
    padded = jnp.pad(x, 1)
    return (3 - 2 * x) * x - padded[:-2] - 2 * padded[2:] + 1


def broyden_banded(x):
    """[31]"""
    i = np.arange(len(x))
    near = (i[None, :] >= i[:, None] - 5) & (i[None, :] <= i[:, None] + 1) & (i[None, :] != i[:, None])
    return x * (2 + 5 * x**2) + 1 - jnp.asarray(near, float) @ (x * (1 + x))


def linear_full_rank(x):
    """[32]"""
    m = 2 * len(x)
    return jnp.pad(x, (0, m - len(x))) - 2 / m * jnp.sum(x) - 1


def linear_rank_one(x):
    """[33]"""
    return _steps(2 * len(x)) * jnp.sum(_steps(len(x)) * x) - 1


def chebyquad(x):
    """[35]"""
    n, y = len(x), 2 * x - 1
    before, now, rows = jnp.ones(n), y, []
    for k in range(1, n + 1):
        rows.append(jnp.mean(now) + (1 / (k**2 - 1) if k % 2 == 0 else 0.0))
        before, now = now, 2 * y * now - before
    return jnp.stack(rows)


def himmelblau(x):
    """David Himmelblau, *Applied nonlinear programming*, 1972."""
    return jnp.stack([x[0] ** 2 + x[1] - 11, x[0] + x[1] ** 2 - 7])


def bohachevsky(x):
    """x² + 2y² − 0.3 cos 3πx − 0.4 cos 4πy + 0.7 as squares (Ihor Bohachevsky et al., 1986)."""
    waves = [0.6**0.5 * jnp.sin(1.5 * jnp.pi * x[0]), 0.8**0.5 * jnp.sin(2 * jnp.pi * x[1])]
    return jnp.stack([x[0], 2**0.5 * x[1], *waves])


def _ramp(n):
    return tuple((np.arange(n) + 1) / (n + 1))


FUNCTIONS: dict[str, Classical] = {
    "rosenbrock": Classical(rosenbrock, (-1.2, 1.0)),
    "freudenstein_roth": Classical(freudenstein_roth, (0.5, -2.0), (0.0, 48.98425)),
    "powell_badly_scaled": Classical(powell_badly_scaled, (0.0, 1.0)),
    "brown_badly_scaled": Classical(brown_badly_scaled, (1.0, 1.0)),
    "beale": Classical(beale, (1.0, 1.0)),
    "jennrich_sampson": Classical(jennrich_sampson, (0.3, 0.4), (124.36218,)),
    "helical_valley": Classical(helical_valley, (-1.0, 0.0, 0.0)),
    "bard": Classical(bard, (1.0, 1.0, 1.0), (8.214877e-3, 17.42869)),
    "gaussian": Classical(gaussian, (0.4, 1.0, 0.0), (1.127933e-8,)),
    "meyer": Classical(meyer, (0.02, 4000.0, 250.0), (87.945855,)),
    "gulf": Classical(gulf, (5.0, 2.5, 0.15)),
    "box": Classical(box, (0.0, 10.0, 20.0)),
    "powell_singular": Classical(powell_singular, (3.0, -1.0, 0.0, 1.0)),
    "wood": Classical(wood, (-3.0, -1.0, -3.0, -1.0)),
    "kowalik_osborne": Classical(kowalik_osborne, (0.25, 0.39, 0.415, 0.39), (3.075056e-4,)),
    "brown_dennis": Classical(brown_dennis, (25.0, 5.0, -5.0, -1.0), (85822.2,)),
    "osborne_1": Classical(osborne_1, (0.5, 1.5, -1.0, 0.01, 0.02), (5.464895e-5,)),
    "biggs": Classical(biggs, (1.0, 2.0, 1.0, 1.0, 1.0, 1.0), (0.0, 5.65565e-3)),
    "osborne_2": Classical(osborne_2, (1.3, 0.65, 0.65, 0.7, 0.6, 3.0, 5.0, 7.0, 2.0, 4.5, 5.5), (4.013774e-2,)),
    "watson_6": Classical(watson, (0.0,) * 6, (2.287670e-3,)),
    "watson_9": Classical(watson, (0.0,) * 9, (1.399760e-6,)),
    "extended_rosenbrock": Classical(rosenbrock, (-1.2, 1.0) * 5),
    "extended_powell": Classical(powell_singular, (3.0, -1.0, 0.0, 1.0) * 3),
    "penalty_1": Classical(penalty_1, (1.0, 2.0, 3.0, 4.0), (2.249978e-5,)),
    "penalty_2": Classical(penalty_2, (0.5,) * 4, (9.376293e-6,)),
    "variably_dimensioned": Classical(variably_dimensioned, tuple(1 - (np.arange(10) + 1) / 10)),
    "trigonometric": Classical(trigonometric, (0.1,) * 10, (0.0, 2.795056e-5)),
    "brown_almost_linear": Classical(brown_almost_linear, (0.5,) * 10, (0.0, 1.0)),
    "boundary_value": Classical(boundary_value, tuple(np.array(_ramp(10)) * (np.array(_ramp(10)) - 1))),
    "integral_equation": Classical(integral_equation, tuple(np.array(_ramp(10)) * (np.array(_ramp(10)) - 1))),
    "broyden_tridiagonal": Classical(broyden_tridiagonal, (-1.0,) * 10),
    "broyden_banded": Classical(broyden_banded, (-1.0,) * 10),
    "linear_full_rank": Classical(linear_full_rank, (1.0,) * 5, (5.0,)),
    "linear_rank_one": Classical(linear_rank_one, (1.0,) * 5, (10 * 9 / (2 * 21),)),
    "chebyquad_8": Classical(chebyquad, _ramp(8), (3.516873e-3,)),
    "chebyquad_9": Classical(chebyquad, _ramp(9)),
    "himmelblau": Classical(himmelblau, (1.0, 1.0)),
    "bohachevsky": Classical(bohachevsky, (0.6, 0.4), (0.0, 0.4129268, 0.4698824, 0.8828092)),
}
