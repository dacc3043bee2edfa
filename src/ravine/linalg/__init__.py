"""Mathematics of matrices that knows nothing of learning."""

from ravine.linalg.dense import damped_qr, gram, shifted_cholesky, solve_cholesky, solve_qr, symmetric_product
from ravine.linalg.kronecker import Diagonal, kronecker_product, kronecker_sum
from ravine.linalg.krylov import Solution, conjugate_gradients
from ravine.linalg.nystrom import Nystrom, nystrom

__all__ = [
    "Diagonal",
    "Nystrom",
    "Solution",
    "conjugate_gradients",
    "damped_qr",
    "gram",
    "kronecker_product",
    "kronecker_sum",
    "nystrom",
    "shifted_cholesky",
    "solve_cholesky",
    "solve_qr",
    "symmetric_product",
]
