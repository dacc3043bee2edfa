"""Mathematics of matrices that knows nothing of learning."""

from ravine.linalg.dense import damped_qr, shifted_cholesky, solve_cholesky

__all__ = ["damped_qr", "shifted_cholesky", "solve_cholesky"]
