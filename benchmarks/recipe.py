"""What of the mnist recipe a training step depends on."""

from __future__ import annotations

from typing import NamedTuple


class Recipe(NamedTuple):
    """The defaults of `vicreg-pretrain`.

    Attributes:
        batch: images a step; each gives two views.
        side: pixels a side of an image.
        width: channels of the encoder's stem; doubled twice.
        expander: width of the expander and of the embeddings.
        learning_rate: of AdamW. A schedule costs nothing that can be measured, so it
            is constant.
        weight_decay: of AdamW, for all but vectors.
    """

    batch: int = 128
    side: int = 28
    width: int = 32
    expander: int = 512
    learning_rate: float = 6e-3
    weight_decay: float = 1e-4

    @property
    def widths(self) -> tuple[int, int, int]:
        """Channels of the stem and of both stages."""
        return self.width, 2 * self.width, 4 * self.width
