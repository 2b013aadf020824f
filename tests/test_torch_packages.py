"""Exported ResNets in the real torchvision and timm, and checkpoints made from them."""

import numpy as np
import pytest
import torch_packages

from vicreg_jax import convert
from vicreg_jax.augment import ImageViews
from vicreg_jax.encoder import load_encoder, save_encoder

torch = pytest.importorskip("torch")
torch_timm = pytest.importorskip("torch_timm")
torch_networks = pytest.importorskip("parity.torch_networks")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("relaxed_promotion", "unchecked_signatures"),
]


def images():
    return np.random.default_rng(0).standard_normal((2, 3, 64, 64), np.float32)


def assert_same_features(model, theirs):
    """Ours in float32 as close to float64 as PyTorch's own, up to a factor of 3."""
    x = images()
    model.eval(), theirs.eval()
    found = np.asarray(model(x.transpose(0, 2, 3, 1)))
    with torch.no_grad():
        narrow = theirs(torch.tensor(x)).double()
        exact = theirs.double()(torch.tensor(x).double())
    assert exact.shape == found.shape and exact.std() > 0.01
    size, rounding = exact.norm(), (narrow - exact).norm()
    error = np.linalg.norm(found - exact.numpy())
    assert error <= max(3 * rounding, 8 * 2**-24 * size)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A ResNet-50 with random weights and statistics, and its file."""
    path = tmp_path_factory.mktemp("exported") / "encoder.safetensors"
    weights = torch_networks.randomized(torch_networks.resnet(50)).state_dict()
    model = convert.load_resnet({k: v.numpy() for k, v in weights.items()})
    about = {"size": 256, "channels": 3, "architecture": {"name": "ResNet"}}
    save_encoder(path, model, views=ImageViews(), **about)
    return model, path


def test_torchvision_loads_the_export(exported):
    model, path = exported
    theirs = torch_packages.torchvision().models.resnet50()
    theirs.fc = torch.nn.Identity()
    tensors = {k: torch.tensor(v) for k, v in convert.read(path).items()}
    missing, unexpected = theirs.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    assert_same_features(model, theirs)


def test_timm_loads_the_export(exported):
    model, path = exported
    theirs = torch_timm.timm().create_model(
        "resnet50", checkpoint_path=str(path), num_classes=0
    )
    assert_same_features(model, theirs)


def resnet18(seed=0):
    return torch_networks.randomized(
        torch_packages.torchvision().models.resnet18(), seed
    )


def lightlys():
    """As lightly's example: a Sequential of the children, and its own head."""
    encoder = resnet18()
    # After torchvision, which it imports.
    heads = pytest.importorskip("lightly.models.modules.heads")
    encoder.fc = torch.nn.Identity()
    backbone = torch.nn.Sequential(*list(encoder.children())[:-1])
    head = heads.VICRegProjectionHead(512, 64, 64, num_layers=3)
    model = torch.nn.ModuleDict({"backbone": backbone, "projection_head": head})
    checkpoint = {"state_dict": model.state_dict(), "epoch": 1, "global_step": 5}
    return encoder, checkpoint


def solo_learns():
    """As solo-learn on CIFAR: another stem, a classifier and a projector."""
    encoder = torch_packages.torchvision().models.resnet18()
    encoder.conv1 = torch.nn.Conv2d(3, 64, 3, 1, padding=2, bias=False)
    encoder.maxpool, encoder.fc = torch.nn.Identity(), torch.nn.Identity()
    torch_networks.randomized(encoder)
    parts = {
        "backbone": encoder,
        "classifier": torch.nn.Linear(512, 10),
        "projector": torch_networks.expander(512, 64, (True, True, True)),
    }
    state = torch.nn.ModuleDict(parts).state_dict()
    return encoder, {"state_dict": state, "hyper_parameters": {"lr": 0.3}}


def officials():
    """As facebookresearch/vicreg: DistributedDataParallel's prefix, under "model"."""
    encoder = resnet18()
    encoder.fc = torch.nn.Identity()
    projector = torch_networks.expander(512, 64)
    parts = {"backbone": encoder, "projector": projector}
    wrapped = torch.nn.ModuleDict({"module": torch.nn.ModuleDict(parts)})
    return encoder, {"epoch": 2, "model": wrapped.state_dict(), "optimizer": {}}


@pytest.mark.parametrize("make", [lightlys, solo_learns, officials])
def test_checkpoints_load_here(tmp_path, make):
    encoder, checkpoint = make()
    torch.save(checkpoint, tmp_path / "last.ckpt")
    assert_same_features(load_encoder(tmp_path / "last.ckpt").model, encoder)
    assert convert.load_expander(tmp_path / "last.ckpt").linear3.out_features == 64
