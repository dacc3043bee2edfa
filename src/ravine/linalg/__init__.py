"""Mathematics of matrices that knows nothing of learning."""

from ravine.linalg.dense import (
    damped_qr,
    gram,
    one_by_one_eigh,
    product_of_rows,
    shifted_cholesky,
    solve_cholesky,
    solve_qr,
    symmetric_product,
)
from ravine.linalg.kronecker import Diagonal, kronecker_product, kronecker_sum
from ravine.linalg.krylov import Solution, conjugate_gradients
from ravine.linalg.nystrom import Nystrom, nystrom, products
from ravine.linalg.trust import Secular, Truncated, cubic_model, lanczos, steihaug, trust_region

__all__ = [
    "Diagonal",
    "Nystrom",
    "Secular",
    "Solution",
    "Truncated",
    "conjugate_gradients",
    "cubic_model",
    "damped_qr",
    "gram",
    "kronecker_product",
    "kronecker_sum",
    "lanczos",
    "nystrom",
    "one_by_one_eigh",
    "product_of_rows",
    "products",
    "shifted_cholesky",
    "solve_cholesky",
    "solve_qr",
    "steihaug",
    "symmetric_product",
    "trust_region",
]
