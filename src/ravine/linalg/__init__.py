"""Mathematics of matrices that knows nothing of learning."""

from ravine.linalg.dense import damped_qr, shifted_cholesky, solve_cholesky
from ravine.linalg.krylov import Solution, conjugate_gradients
from ravine.linalg.nystrom import Nystrom, nystrom

__all__ = [
    "Nystrom",
    "Solution",
    "conjugate_gradients",
    "damped_qr",
    "nystrom",
    "shifted_cholesky",
    "solve_cholesky",
]
