"""Flags that a run would ignore, which the command line refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vicreg_jax.pretrain.errors import UsageError, flag

if TYPE_CHECKING:
    from vicreg_jax.pretrain.config import Config


def refuse_ignored(config: Config, recipe: Config) -> None:
    """Refuses settings that differ from the recipe's and have no effect.

    The recipe's own settings may have none, such as those of the optimizer that a flag
    replaces.

    Args:
        config: The configuration that the command line asks for.
        recipe: The configuration of its recipe without any flags.

    Raises:
        UsageError: If there is such a setting.
    """
    lars, local = config.optimizer == "lars", config.alpha is not None
    resnet = config.encoder.startswith("resnet")
    for name, used, needed in (
        ("trust_coefficient", lars, "--optimizer lars"),
        ("clip_trust", lars, "--optimizer lars"),
        ("local_expander", local, "--alpha"),
        ("location_matches", local, "--alpha"),
        ("width", resnet or config.encoder == "small", "--encoder small or a ResNet"),
        ("small_images", resnet, "a ResNet as --encoder"),
    ):
        value = getattr(config, name)
        if not used and value != getattr(recipe, name):
            raise UsageError(
                f"{flag(name)} must be given with {needed} only, got {value}"
            )
