"""Starting a run from the weights of another one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import jax
from flax import nnx

from vicreg_jax.encoder import load_encoder
from vicreg_jax.pretrain import mesh as meshes
from vicreg_jax.pretrain.errors import UsageError
from vicreg_jax.pretrain.network import architecture

if TYPE_CHECKING:
    from vicreg_jax.pretrain.step import Programs, State


def initialized(programs: Programs, state: State) -> State:
    """Returns the state with the encoder of ``config.init``, if there is one.

    The expander keeps its random parameters.

    Raises:
        UsageError: If there is no such encoder, or it has another architecture.
    """
    config = programs.config
    if config.init is None:
        return state
    model = None
    if programs.own_encoder is not None:
        model = programs.own_encoder(nnx.Rngs(0))
    try:
        loaded = load_encoder(Path(config.init), model)
    except ValueError as error:
        raise UsageError(f"--init {config.init}: {error}") from error
    ours = architecture(config)
    # A file with PyTorch's tensors alone has no architecture, only shapes.
    stored = loaded.about.get("architecture", ours)
    _check("architecture", stored, ours)
    _, *parts, _ = nnx.split(loaded.model, nnx.Param, nnx.BatchStat, ...)
    params, stats = map(nnx.to_pure_dict, parts)
    for new, old in ((params, state.params), (stats, state.stats)):
        _check("shapes", _shapes(new), _shapes(old.get("encoder", {})))
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
