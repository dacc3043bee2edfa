"""What a diagnosis consists of: findings, each with what was measured, why it matters and what to type."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or will go wrong, with a training run.

    **Arguments:**

    - `kind`: its name, lower case with hyphens, such as "overfitted-points".
    - `blame`: how much of the trouble it explains, from 0 (a remark) to 1 (it alone explains all of it); findings are
      told in this order.
    - `summary`: what is wrong, in one sentence.
    - `evidence`: what was measured, with numbers.
    - `cause`: why that stalls training, or makes the answer wrong, in one or two sentences.
    - `advice`: what to type, the best first; each a command line option, a line of Python, or a sentence.
    - `numbers`: the measured numbers by name, for programs.

    **Raises:** `ValueError` for a blame outside [0, 1].

    ```python
    >>> import ravine as rv
    >>> rv.Finding("few-points", 0.9, "The points are overfitted.", "Loss 1e-9, on others 1e-3.", "Too few.").blame
    0.9

    ```
    """

    kind: str
    blame: float
    summary: str
    evidence: str
    cause: str
    advice: tuple[str, ...] = ()
    numbers: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if not 0 <= self.blame <= 1:
            raise ValueError(f"Finding: blame is {self.blame}, but lies between 0 and 1.")
