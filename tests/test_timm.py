"""ConvNeXt and ViT: timm's features from its weights, and weights that it takes."""

import re

import jax
import numpy as np
import pytest
from flax import nnx
from grids import thinned

from vicreg_jax import convert, load_encoder
from vicreg_jax.augment import ImageViews
from vicreg_jax.encoder import save_encoder
from vicreg_jax.nn import ConvNeXt

torch = pytest.importorskip("torch")

import torch_timm  # noqa: E402
from torch_features import images, seen_by, seen_by_torch  # noqa: E402

torch_networks = pytest.importorskip("parity.torch_networks")

# Flax promotes float64 to float32 and back where it makes sure of at least float32.
pytestmark = pytest.mark.usefixtures("relaxed_promotion")

SIZES = dict(depths=(1, 1, 2, 1), width=8)
STANDARD = dict(layer_scale=True, norm_pooled=True)
TOKENS = dict(image_size=32, patch_size=8, width=24, depth=2, heads=3)
LOADS = {
    "vicregl": convert.load_convnext,
    "standard": convert.load_convnext,
    "vit": lambda source, **options: convert.load_vit(source, heads=3, **options),
}
# JAX's attention has its softmax in float32 whatever its inputs have.
EXACTNESS = {"vicregl": 1e-13, "standard": 1e-13, "vit": 8 * 2**-24}


def reference(kind):
    if kind == "vit":
        return torch_timm.ViT(**TOKENS)
    return torch_timm.ConvNeXt(**SIZES, **(STANDARD if kind == "standard" else {}))


def create(kind, **options):
    """Returns timm's own network, with the sizes of the reference."""
    options = dict(num_classes=0) | options
    if kind == "vit":
        sizes = dict(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3)
        return torch_timm.timm().create_model(
            "vit_small_patch16_224", **(sizes | options)
        )
    sizes = dict(depths=(1, 1, 2, 1), dims=(8, 16, 32, 64))
    if kind == "vicregl":
        sizes |= dict(head_norm_first=True, ls_init_value=None, drop_path_rate=0.1)
    return torch_timm.timm().create_model("convnext_tiny", **(sizes | options))


def created_in_full(kind):
    if kind == "vit":
        return create(
            kind, img_size=32, patch_size=16, embed_dim=384, depth=12, num_heads=6
        )
    return create(kind, depths=(3, 3, 9, 3), dims=(96, 192, 384, 768))


def arrays(module):
    return {name: value.numpy() for name, value in module.state_dict().items()}


def randomized(module):
    return torch_networks.randomized(module).eval()


def assert_same_features(theirs, load, x, exactness=1e-13):
    """In float64 to its rounding; in float32 as close to that as PyTorch's own."""
    tensors = arrays(theirs)
    narrow = seen_by_torch(theirs, x, torch.float32), seen_by(load(tensors), x, "f4")
    with jax.enable_x64(True):
        got = seen_by(load(tensors, dtype=np.float64), x, np.float64)
    exact = seen_by_torch(theirs, x, torch.float64)
    size = np.linalg.norm(exact)
    assert exact.std() > 0.01
    assert np.linalg.norm(got - exact) <= exactness * size
    rounding, ours_rounding = (np.linalg.norm(seen - exact) for seen in narrow)
    # Two draws of the same rounding; 8 units where PyTorch happens to have less.
    assert ours_rounding <= max(3 * rounding, 8 * 2**-24 * size)


# 70 pixels do not fill the patches of a ConvNeXt.
SIDES = [("vicregl", 70), ("standard", 64), ("vit", 32)]


@pytest.mark.parametrize(
    "kind, side", thinned(SIDES, keep=[("vicregl", 70), ("vit", 32)])
)
def test_features_are_those_of_the_definition_in_pytorch(kind, side):
    theirs = randomized(reference(kind))
    assert_same_features(theirs, LOADS[kind], images(side), EXACTNESS[kind])


@pytest.mark.slow
@pytest.mark.parametrize(
    "make, kind, side",
    [(create, *side) for side in SIDES]
    # The other ConvNeXt in full size would take half a minute.
    + [(created_in_full, *side) for side in SIDES if side[0] != "standard"],
)
def test_features_are_timms(kind, side, make):
    load = LOADS[kind]
    if kind == "vit" and make is created_in_full:
        load = convert.load_vit
    theirs = randomized(make(kind))
    assert_same_features(theirs, load, images(side), EXACTNESS[kind])


@pytest.mark.parametrize("kind", LOADS)
def test_there_and_back_is_exact(tmp_path, kind):
    theirs = arrays(randomized(reference(kind)))
    head = {"norm.weight": np.zeros(3), "head.norm.weight": np.zeros(3)}
    nested = {f"module.backbone.{name}": value for name, value in theirs.items()}
    nested |= {f"module.projector.{name}": value for name, value in head.items()}
    found = convert.state_dict(LOADS[kind](nested))
    assert found.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.slow
@pytest.mark.parametrize("kind", LOADS)
def test_timm_takes_the_export(tmp_path, kind):
    theirs = randomized(create(kind, num_classes=3))
    ours = LOADS[kind](arrays(theirs))
    path = tmp_path / "encoder.safetensors"
    convert.write(path, convert.state_dict(ours))
    loaded = create(kind, checkpoint_path=str(path))  # it does so strictly
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name])


# What facebookresearch/ConvNeXt and VICRegL call the layers of a ConvNeXt.
OFFICIAL = {
    "stem.": "downsample_layers.0.",
    r"stages.(\d).downsample.": r"downsample_layers.\1.",
    ".blocks.": ".",
    "conv_dw": "dwconv",
    r"mlp.fc(\d)": r"pwconv\1",
    "norm_pre": "norm",
    "head.norm": "norm",
}


@pytest.mark.parametrize("kind", ["vicregl", "standard"])
def test_names_of_the_official_code(kind):
    theirs, official = arrays(randomized(reference(kind))), {}
    for name, value in theirs.items():
        for pattern, replacement in OFFICIAL.items():
            name = re.sub(pattern, replacement, name)
        official[name] = value
    assert official.keys() != theirs.keys()
    official |= {"head.weight": np.zeros((9, 64)), "head.bias": np.zeros(9)}
    found = convert.state_dict(convert.load_convnext(official))
    assert found.keys() == theirs.keys()
    assert all(np.array_equal(found[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("kind", LOADS)
def test_a_file_of_weights_is_an_encoder(tmp_path, kind):
    theirs = {"vit": dict(TOKENS, width=64)}.get(kind)
    theirs = torch_timm.ViT(**(theirs | {"heads": 1})) if theirs else reference(kind)
    path = tmp_path / "weights.safetensors"
    convert.write(path, arrays(theirs))
    encoder = load_encoder(path)
    size = 32 if kind == "vit" else 224
    assert (encoder.views, encoder.channels) == (ImageViews(size=size), 3)
    assert encoder.model.out_features == 64


@pytest.mark.slow
def test_a_file_of_save_encoder(tmp_path):
    sizes = dict(depths=[1, 1, 1, 1], width=4, drop_path=0.5)
    model, path = ConvNeXt(**sizes, rngs=nnx.Rngs(0)), tmp_path / "encoder.safetensors"
    options = {"views": ImageViews(size=32), "size": 32, "channels": 3}
    save_encoder(path, model, architecture={"name": "ConvNeXt", **sizes}, **options)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    encoder = load_encoder(path)
    assert not jax.tree.leaves(nnx.state(encoder.model, nnx.RngState))
    features = encoder.embed(pixels)
    assert features.shape == (2, 32) and np.isfinite(features).all()


class TestErrors:
    def test_missing_and_unexpected_keys_are_named(self):
        tensors = arrays(reference("vicregl"))
        tensors["stages.1.grn.weight"] = tensors.pop("stages.1.blocks.0.norm.weight")
        message = (
            "missing `stages.1.blocks.0.norm.weight`, unexpected `stages.1.grn.weigh"
        )
        with pytest.raises(ValueError, match=message):
            convert.load_convnext(tensors)

    def test_another_network(self):
        tensors = arrays(reference("vit"))
        with pytest.raises(ValueError, match="must hold a ConvNeXt in PyTorch's names"):
            convert.load_convnext(tensors)
        with pytest.raises(ValueError, match="must hold a ViT in PyTorch's names"):
            convert.load_vit(arrays(reference("standard")))

    def test_heads_that_are_not_told(self):
        message = "`heads` must be given if .* multiple of 64, got a width of 24"
        with pytest.raises(ValueError, match=message):
            convert.load_vit(arrays(reference("vit")))
