"""Starting a run from the weights of another one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
from flax import nnx

from vicreg_jax.encoder import load_encoder
from vicreg_jax.pretrain import mesh as meshes
from vicreg_jax.pretrain.errors import UsageError, of_file
from vicreg_jax.pretrain.network import architecture

if TYPE_CHECKING:
    from vicreg_jax.pretrain.step import Programs, State


class Weights(NamedTuple):
    """Parameters and batch-norm statistics of an encoder by name."""

    params: dict[str, Any]
    stats: dict[str, Any]


def load_init(programs: Programs) -> Weights | None:
    """Returns the encoder of ``config.init``, if there is one.

    Raises:
        UsageError: If there is no such encoder, or it has another architecture.
    """
    config = programs.config
    if config.init is None:
        return None
    model = None
    if programs.own_encoder is not None:
        # A template, whose parameters `load_encoder` overwrites.
        model = programs.own_encoder(nnx.Rngs(0))
    try:
        loaded = load_encoder(Path(config.init), model)
    except ValueError as error:
        raise of_file(error, "--init", config.init) from error
    ours = architecture(config)
    # A file with PyTorch's tensors alone has no architecture, only shapes.
    stored = loaded.about.get("architecture", ours)
    _check("architecture", stored, ours)
    # What remains are random streams, which `Programs` makes anew in each step.
    _, *parts, _ = nnx.split(loaded.model, nnx.Param, nnx.BatchStat, ...)
    weights = Weights(*map(nnx.to_pure_dict, parts))
    start = programs.state_shapes
    for new, old in zip(weights, (start.params, start.stats), strict=True):
        _check("shapes", _shapes(new), _shapes(old.get("encoder", {})))
    return weights


def initialized(programs: Programs, state: State, weights: Weights | None) -> State:
    """Returns the state with the weights of its encoder replaced, if there are any.

    The expander keeps its random parameters.
    """
    if weights is None:
        return state
    params, stats = weights
    # ConvNeXts and ViTs have no batch norms, and no entry in the statistics of a state.
    # An empty one would make the state another pytree.
    state = state._replace(
        params=state.params | {"encoder": params},
        stats=state.stats | ({"encoder": stats} if stats else {}),
    )
    return jax.device_put(state, meshes.whole(programs.mesh))


def _check(what: str, found: dict, wanted: dict) -> None:
    # Parameters do not depend on the dtype of an architecture.
    for name in (wanted.keys() | found.keys()) - {"dtype"}:
        if found.get(name) != wanted.get(name):
            raise UsageError(
                "--init must hold an encoder as the settings make it: in its "
                f"{what}, {name} must be {wanted.get(name)}, got {found.get(name)}"
            )


def _shapes(tree) -> dict[str, tuple[int, ...]]:
    leaves, _ = jax.tree.flatten_with_path(tree)
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}
