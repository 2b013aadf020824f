"""The pretraining job, from a laptop to a TPU pod.

config: every setting of a run, checked.
recipes: named configurations.
start, init_weights: what a run prints and writes at first; weights to start from.
names: names of images that are not paths.
input: datasets, and how images get to the devices.
network: the network, optimizer and schedule of a configuration.
mesh, processes: devices, and the processes of one run.
step: one update; the state it takes and the metrics it returns.
arguments: what an update takes, by shape, and a check of the step with it.
loop: all updates, and what happens between them.
records, tensorboard: metrics files, and TensorBoard's.
features: frozen features of a run's images, and its untrained baseline.
evaluation: probes of frozen features, and the health of embeddings.
checkpoints, run_folder: stopping and resuming.
run: from datasets to report.
classifier, classifier_config, classifier_result, classifier_run: the official
    evaluations, their programs, settings, accuracies and runs.
api: `pretrain`, which does all of it, and `Run`, which reads what it left.
report, export: the picture; the encoder in files, and probes on other images.
embed, contact_sheet: features of any images, and a picture of nearest neighbors.
compilation: compiler options and the compilation cache.
compile_only: the step compiled for TPUs that are not attached.

scikit-learn, Matplotlib and tensorboardX are imported by the functions that need them.
Together they take two seconds of every start, and tensorboardX imports PyTorch where
that is installed.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vicreg_jax.pretrain.api import Run, pretrain

__all__ = ["Run", "pretrain"]

if importlib.util.find_spec("tyro") is None:
    raise ModuleNotFoundError(
        "the pretraining job needs more packages: pip install 'vicreg_jax[pretrain]'"
    )


def __getattr__(name: str):
    """Imports the job when it is first used, as it takes seconds."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vicreg_jax.pretrain import api

    return getattr(api, name)
