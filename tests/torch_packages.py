"""torchvision, where it is installed."""

import importlib.metadata

import pytest


def torchvision():
    """Returns torchvision, also if its compiled operators are for another PyTorch.

    ResNets need none of the operators. Without their declarations the import fails.
    """
    torch = pytest.importorskip("torch")
    try:
        importlib.metadata.version("torchvision")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("torchvision is not installed")
    try:
        import torchvision
    except RuntimeError:
        for name in ("nms", "qnms"):
            signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{name}", signature)
        import torchvision
    return torchvision
