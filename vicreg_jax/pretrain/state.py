"""What a step takes and gives: the state of a run, and metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int32


class State(NamedTuple):
    """All that a step changes: plain arrays, the same on every device.

    Attributes:
        step: updates so far.
        params: of the network, by name.
        stats: running statistics of its batch norms.
        optimizer: what the optimiser remembers.
    """

    step: Int32[Array, ""]
    params: dict[str, Any]
    stats: dict[str, Any]
    optimizer: Any


class Metrics(NamedTuple):
    """What a step reports, scalars on the device.

    Attributes:
        loss: the weighted sum of the terms.
        invariance: see `VICRegTerms`.
        variance: see `VICRegTerms`.
        covariance: see `VICRegTerms`.
        std: mean standard deviation of the columns, of both views.
        learning_rate: of this step.
        gradient_norm: of all parameters together.
    """

    loss: Float[Array, ""]
    invariance: Float[Array, ""]
    variance: Float[Array, ""]
    covariance: Float[Array, ""]
    std: Float[Array, ""]
    learning_rate: Float[Array, ""]
    gradient_norm: Float[Array, ""]
