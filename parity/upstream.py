"""Released PyTorch implementations, where they are installed.

Only the file of each project's loss is loaded, because the packages around it import
far more than a loss needs. While the file loads, the stand-ins below replace the
modules that it imports from its own package. Stand-ins compute nothing, except for the
base class of pytorch-metric-learning. A file is run only if its git blob is the one
that this suite was written for.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import NamedTuple
from unittest import mock

import torch


class Upstream(NamedTuple):
    """A file of a released package.

    Attributes:
        package: Its distribution's name.
        version: The release.
        directory: Directory of the files, in the distribution.
        files: Names and git blobs. The file of the loss is the last one.
        stand_ins: Returns the modules that the files import from their own package.
        build: Returns a loss of two tensors, from the loaded module, the project's own
            three weights, and gamma, which only quadra has.
    """

    package: str
    version: str
    directory: str
    files: dict[str, str]
    stand_ins: Callable[[], dict[str, ModuleType]]
    build: Callable[..., Callable]


class NotLoaded(Exception):
    """Raised with the reason why an implementation cannot be loaded."""


def load(name: str) -> Callable[..., Callable]:
    """Returns `loss(a, b, c, gamma) -> (z1, z2) -> total` of one of `UPSTREAMS`.

    Raises:
        NotLoaded: It is not installed, or another release is installed.
    """
    upstream, module = UPSTREAMS[name], _module(name)
    return lambda *weights_and_gamma: upstream.build(module, *weights_and_gamma)


def status(name: str) -> str:
    """Returns the release of an implementation, or why it cannot be loaded."""
    try:
        _module(name)
    except NotLoaded as reason:
        return str(reason)
    return f"{UPSTREAMS[name].version}, run as released"


@cache
def _module(name: str) -> ModuleType:
    upstream = UPSTREAMS[name]
    # The patch also removes what is loaded inside of it, so that the real packages can
    # be imported later.
    with mock.patch.dict(sys.modules, upstream.stand_ins()):
        loaded = [_loaded(path) for path in _checked_files(upstream)]
    return loaded[-1]


def _checked_files(upstream: Upstream) -> list[tuple[str, Path]]:
    try:
        distribution = importlib.metadata.distribution(upstream.package)
    except importlib.metadata.PackageNotFoundError:
        raise NotLoaded("not installed") from None
    found = []
    for file, blob in upstream.files.items():
        name = f"{upstream.directory}/{file}"
        path = Path(str(distribution.locate_file(name)))
        # The file decides and not the version, as an installed copy may have been
        # changed.
        if not path.is_file() or git_blob(path.read_bytes()) != blob:
            raise NotLoaded(
                f"{distribution.version} is installed, and its {name} is not "
                f"that of {upstream.version}"
            )
        found.append((name, path))
    return found


def git_blob(content: bytes) -> str:
    """Returns the git blob of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _loaded(name_and_path: tuple[str, Path]) -> ModuleType:
    name, path = name_and_path
    dotted = name.removesuffix(".py").replace("/", ".")
    spec = importlib.util.spec_from_file_location(dotted, path)
    assert spec and spec.loader
    # Registered, as the files after it import it by this name.
    module = sys.modules[dotted] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _modules(**contents: dict[str, object]) -> dict[str, ModuleType]:
    """Returns modules with these contents, and their empty parent packages."""
    made: dict[str, ModuleType] = {}
    for key, content in contents.items():
        # Keyword arguments have no dots.
        parts = key.split("__")
        for depth in range(1, len(parts) + 1):
            dotted = ".".join(parts[:depth])
            # Only a module with a `__path__` is a package, from which others can be
            # imported.
            made.setdefault(dotted, ModuleType(dotted)).__path__ = []
        vars(made[".".join(parts)]).update(content)
    return made


def _unused(*_, **__):
    raise AssertionError("a stand-in was called, which needs several processes")


class _MetricLearningBase(torch.nn.Module):
    """Stands in for pytorch-metric-learning's base class and its default reducer.

    The reducer takes the mean of each part of the loss, unless the part is reduced
    already, and adds the parts.
    """

    def compute_loss(self, *_) -> dict[str, dict]:
        raise NotImplementedError("the derived loss defines this")

    def forward(self, z1, z2):
        parts = self.compute_loss(z1, None, None, z2, None)
        return sum(part["losses"].mean() for part in parts.values())


def _metric_learning_stand_ins():
    common = ModuleType("common_functions")
    vars(common).update(
        indices_tuple_not_supported=lambda *_: None,
        labels_not_supported=lambda *_: None,
        torch_arange_from_size=lambda z: torch.arange(z.shape[0]),
    )
    return _modules(
        pytorch_metric_learning__utils={"common_functions": common},
        pytorch_metric_learning__losses__base_metric_loss_function={
            "BaseMetricLossFunction": _MetricLearningBase
        },
    )


def _stable_pretraining_stand_ins():
    alone = {"all_gather": lambda z: (z,)}  # as in a single process
    names = ("all_reduce", "get_rank", "get_world_size")
    others = dict.fromkeys(names, _unused)
    return _modules(
        loguru={"logger": None},
        stable_pretraining__losses={},
        stable_pretraining__utils={**alone, **others},
    )


def _lightly_local_stand_ins():
    """Stands in for what lightly's matching does not use of its module's imports."""
    return _modules(
        lightly__utils__dist={"gather": _unused},
        lightly__loss={},
        lightly__models={},
        lightly__utils__dependency={"timm_vit_available": lambda: False},
        torchvision__ops={"StochasticDepth": torch.nn.Identity},
    )


def _no_gamma(gamma: float) -> None:
    if gamma != 1:
        raise ValueError(f"`gamma` must be 1, except for quadra, got {gamma}")


def _as_class(module, a, b, c, gamma):
    _no_gamma(gamma)
    return module.VICRegLoss(a, b, c)


def _as_solo_learn(module, a, b, c, gamma):
    _no_gamma(gamma)
    return lambda z1, z2: module.vicreg_loss_func(z1, z2, a, b, c)


UPSTREAMS = {
    "quadra": Upstream(
        "quadra",
        "2.9.0",
        "quadra/losses/ssl",
        {"vicreg.py": "a4bb60f286db6e367a24d401915bb770ec9bfb69"},
        dict,
        lambda module, a, b, c, gamma: module.VICRegLoss(a, b, c, gamma),
    ),
    "lightly": Upstream(
        "lightly",
        "1.6.0",
        "lightly/loss",
        {"vicreg_loss.py": "72ba06b3affd002ff7b07ee11e022d75ec6661cf"},
        lambda: _modules(lightly__utils__dist={"gather": _unused}),
        _as_class,
    ),
    "lightly_local": Upstream(
        "lightly",
        "1.6.0",
        "lightly",
        {
            "models/utils.py": "6d7eb0447311f1f27c365526fe57ac366ec89831",
            "loss/vicreg_loss.py": "72ba06b3affd002ff7b07ee11e022d75ec6661cf",
            "loss/vicregl_loss.py": "d6797cc96a37acef77b5c8a6c2289716ed7ee62d",
        },
        _lightly_local_stand_ins,
        lambda module, a, b, c, _: partial(module.VICRegLLoss, a, b, c),
    ),
    "solo_learn": Upstream(
        "solo-learn",
        "1.0.2",
        "solo/losses",
        {"vicreg.py": "44dd72fa49139a57df32cf9dfcaf55f3ff223f46"},
        dict,
        _as_solo_learn,
    ),
    "pytorch_metric_learning": Upstream(
        "pytorch-metric-learning",
        "2.9.0",
        "pytorch_metric_learning/losses",
        {"vicreg_loss.py": "ab0b8e80e6052ea5027948bba5bf097484e6c346"},
        _metric_learning_stand_ins,
        _as_class,
    ),
    "stable_pretraining": Upstream(
        "stable-pretraining",
        "0.1.8",
        "stable_pretraining/losses",
        {
            "utils.py": "203c44d3404d58009c53f7bdd1102cd7eb2b6b33",
            "joint_embedding.py": "0bc41c947f1817d6f33fa6237e1ee8035f2c741e",
        },
        _stable_pretraining_stand_ins,
        _as_class,
    ),
}
