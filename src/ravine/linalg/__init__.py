"""Mathematics of matrices that knows nothing of learning."""

from ravine.linalg.dense import damped_qr, gram, shifted_cholesky, solve_cholesky, solve_qr, symmetric_product

__all__ = ["damped_qr", "gram", "shifted_cholesky", "solve_cholesky", "solve_qr", "symmetric_product"]
