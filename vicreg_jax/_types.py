"""Type aliases for public signatures.

Only type checkers and the tests import this module, so the package itself does not
need jaxtyping.
"""

from collections.abc import Sequence
from typing import TypeAlias

from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Real

Embeddings: TypeAlias = Float[ArrayLike, "batch dim"]
Views: TypeAlias = Float[ArrayLike, "views batch dim"] | Sequence[Embeddings]
Map: TypeAlias = Float[ArrayLike, "batch _ _ channels"]
Positions: TypeAlias = Float[ArrayLike, "batch _ _ 2"]
Maps: TypeAlias = Float[ArrayLike, "views batch _ _ channels"] | Sequence[Map]
MapPositions: TypeAlias = Float[ArrayLike, "views batch _ _ 2"] | Sequence[Positions]
RowMask: TypeAlias = Bool[ArrayLike, " batch"]
Scalar: TypeAlias = Real[ArrayLike, ""]
AxisName: TypeAlias = str | tuple[str, ...] | None
