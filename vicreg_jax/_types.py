"""Type aliases for public signatures.

Only type checkers and the tests import this module, so the package itself does not
need jaxtyping.
"""

from typing import TypeAlias

from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Real

Embeddings: TypeAlias = Float[ArrayLike, "batch dim"]
RowMask: TypeAlias = Bool[ArrayLike, " batch"]
Scalar: TypeAlias = Real[ArrayLike, ""]
AxisName: TypeAlias = str | tuple[str, ...] | None
