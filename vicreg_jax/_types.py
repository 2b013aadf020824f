"""The names that signatures use for their arguments.

Imported for type checkers and for the tests only: the package itself runs on JAX
alone, without jaxtyping.
"""

from typing import TypeAlias

from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Real

Embeddings: TypeAlias = Float[ArrayLike, "batch dim"]
RowMask: TypeAlias = Bool[ArrayLike, " batch"]
Scalar: TypeAlias = Real[ArrayLike, ""]
AxisName: TypeAlias = str | tuple[str, ...] | None
