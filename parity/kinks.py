"""ReLUs that rounding switches, which changes a gradient by a sample's whole share."""

from __future__ import annotations

import numpy as np
import torch


class Inputs:
    """Records the inputs of each ReLU of a run, sorted, as other runs permute the rows.

    Attributes:
        seen: The inputs of one ReLU in one step, sorted along the rows.
    """

    def __init__(self):
        self.seen: list[np.ndarray] = []

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Returns `x`, recorded."""
        self.seen.append(np.sort(x.detach().numpy(), axis=0))
        return x

    def distance(self, other: Inputs) -> float:
        """Returns the largest distance of an input from that of another run."""
        pairs = zip(self.seen, other.seen, strict=True)
        return max((float(np.abs(a - b).max()) for a, b in pairs), default=0.0)

    def reach(self, distance: float) -> bool:
        """Returns whether an input is as near to zero as this."""
        return any(float(np.abs(x).min()) <= distance for x in self.seen)


def switched(x: torch.Tensor, by: float) -> torch.Tensor:
    """Returns `x` with inputs no further than `by` from zero on one side of it.

    Args:
        x: The input of a ReLU.
        by: Moves those inputs by twice as much: below zero if it is positive, above
            zero if it is negative.
    """
    # Twice, because subtracting `by` alone would move an input of that size to zero,
    # which is the kink itself.
    return torch.where(x.abs() <= abs(by), x - 2 * by, x)
