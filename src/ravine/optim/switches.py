"""When one method should hand over to the next: limits of a phase that look at its progress.

Each makes an `Until`: a function of the phase's history rows, asked at every record. Those that need a column which is
not always measured say so in `measures`.
"""

import math
import statistics
from collections.abc import Sequence

from ravine.optim.phase import Row, Until

SIGNAL = "signal"


def stalled(*, seconds: float | None = None, steps: int | None = None, factor: float, key: str = "loss") -> Until:
    """A plateau: true once `key` has fallen by less than `factor` within the last `seconds` (or `steps`) of this phase.

    **Raises:** `ValueError` unless one of `seconds` and `steps` is given.

    ```python
    >>> import ravine as rv
    >>> slow = [{"seconds": float(s), "step": 10 * s, "loss": 1.0 - 0.01 * s} for s in range(9)]
    >>> rv.stalled(seconds=5.0, factor=1.5)(slow), rv.stalled(steps=50, factor=1.01)(slow)
    (True, False)

    ```
    """
    if (seconds is None) == (steps is None):
        raise ValueError("stalled: give seconds=, of training, or steps=, over which the progress is judged, not both.")

    def until(rows: Sequence[Row]) -> bool:
        clock, span = ("seconds", seconds) if steps is None else ("step", steps)
        if not rows or rows[-1][clock] - rows[0][clock] < span:
            return False
        then = rows[-1][clock] - span
        before = [row[key] for row in rows if row[clock] <= then]
        since = [row[key] for row in rows if row[clock] > then]
        return not min(since) < min(before) / factor

    return until


def below(value: float, *, key: str = "loss") -> Until:
    """True once `key` is at or below `value`.

    ```python
    >>> import ravine as rv
    >>> rv.below(1e-3)([{"loss": 1e-4}])
    True

    ```
    """
    return lambda rows: bool(rows) and rows[-1][key] <= value


def slowing(*, seconds: float, share: float = 0.1, key: str = "loss") -> Until:
    """Progress per second: true once log(`key`) falls by less than `share` of the fastest rate this phase has had.

    Both rates are taken over windows of `seconds`. Unlike `stalled` it knows no absolute measure of progress: a method
    that was fast and is no more makes room for the next, one that was always slow goes on.

    ```python
    >>> import ravine as rv
    >>> loss = [10.0 ** -min(s, 4) for s in range(12)]  # a decade a second, then nothing
    >>> rows = [{"seconds": float(s), "loss": value} for s, value in enumerate(loss)]
    >>> [rv.slowing(seconds=3.0)(rows[:s]) for s in (4, 7, 8, 12)]
    [False, False, True, True]

    ```
    """

    def until(rows: Sequence[Row]) -> bool:
        if not rows or rows[-1]["seconds"] - rows[0]["seconds"] < seconds:
            return False
        best, lows = math.inf, []
        for row in rows:
            best = min(best, max(row[key], 1e-300))
            lows.append((row["seconds"], math.log(best)))
        rates, start = [], 0
        for now, low in lows:
            while start + 1 < len(lows) and lows[start + 1][0] <= now - seconds:
                start += 1
            if lows[start][0] <= now - seconds:
                rates.append((lows[start][1] - low) / (now - lows[start][0]))
        return rates[-1] <= share * max(rates)

    return until


def noisy(*, level: float = 1.0, records: int = 5) -> Until:
    """Gradient signal to noise: true once its median over the last `records` records is below `level`.

    The column "signal" is ⟨a, b⟩ / (½‖a − b‖²) for the gradients a, b on the training points and on the independent
    ones, which is ‖∇L‖² over the variance of a batch's gradient, without bias above and below the line. Below one a
    step on a batch is mostly noise: larger batches, or the full batch and a method with curvature, are due. On held
    points it falls below one as they are overfitted: a redraw is due.

    Sam McCandlish, Jared Kaplan, Dario Amodei and the OpenAI Dota Team, *An empirical model of large-batch training*,
    2018, appendix A (the simple noise scale). **Cost:** two gradients a record.

    ```python
    >>> import ravine as rv
    >>> rv.noisy(records=3)([{"signal": s} for s in (9.0, 0.4, 0.2, 1.4)])
    True

    ```
    """

    def until(rows: Sequence[Row]) -> bool:
        last = [row[SIGNAL] for row in rows[-records:]]
        return len(last) == records and statistics.median(last) < level

    until.measures = (SIGNAL,)  # pyright: ignore[reportFunctionMemberAccess]
    return until
