"""Mathematics of matrices that knows nothing of learning."""

from ravine.linalg.dense import damped_qr, gram, shifted_cholesky, solve_cholesky, solve_qr, symmetric_product
from ravine.linalg.krylov import Solution, conjugate_gradients
from ravine.linalg.nystrom import Nystrom, nystrom

__all__ = [
    "Nystrom",
    "Solution",
    "conjugate_gradients",
    "damped_qr",
    "gram",
    "nystrom",
    "shifted_cholesky",
    "solve_cholesky",
    "solve_qr",
    "symmetric_product",
]
