"""Checkpoints of PyTorch's ResNets: the same features, and no key lost unsaid."""

import os
import pickle
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from grids import thinned

from vicreg_jax import convert
from vicreg_jax.nn import Expander, SmallResNet, VICReg

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402
from torch_features import images, seen_by, seen_by_torch  # noqa: E402

torch_networks = pytest.importorskip("parity.torch_networks")
TorchResNet, torch_expander = torch_networks.resnet, torch_networks.expander


def randomized(module, seed=0):
    return torch_networks.randomized(module, seed).eval()


def pair(depth, *, seed=0, dtype=None, **options):
    theirs = randomized(TorchResNet(depth, **options), seed)
    ours = convert.load_resnet(arrays(theirs), dtype=dtype)
    ours.eval()
    return theirs, ours


def arrays(module):
    return {name: value.numpy() for name, value in module.state_dict().items()}


@pytest.mark.parametrize(
    "depth, options",
    thinned(
        [
            (18, {}),
            (34, {"width": 16}),
            (50, {}),
            (50, {"width": 16, "small_images": True}),
            (18, {"width": 128}),
        ],
        keep=[(50, {"width": 16, "small_images": True})],
    ),
)
def test_features_are_pytorchs(depth, options):
    """In float64 to its rounding; in float32 as close to that as PyTorch's own."""
    x = images(16 if "small_images" in options else 64)
    theirs, ours = pair(depth, **options)
    narrow = seen_by_torch(theirs, x, torch.float32), seen_by(ours, x, np.float32)
    with jax.enable_x64(True):
        _, wide = pair(depth, dtype=np.float64, **options)
        got = seen_by(wide, x, np.float64)
    exact = seen_by_torch(theirs, x, torch.float64)
    size = np.linalg.norm(exact)
    assert exact.std() > 0.01
    assert np.linalg.norm(got - exact) <= 1e-13 * size
    rounding, ours_rounding = (np.linalg.norm(seen - exact) for seen in narrow)
    # Two draws of the same rounding; 8 units where PyTorch happens to have less.
    assert ours_rounding <= max(3 * rounding, 8 * 2**-24 * size)


@pytest.mark.slow
@pytest.mark.usefixtures("x64", "relaxed_promotion")
def test_training_is_pytorchs():
    """Batch statistics, running statistics and every gradient, in float64."""
    theirs, ours = pair(50, width=4, dtype=np.float64)
    graph, state = nnx.split(ours)
    state = jax.tree.map(lambda leaf: leaf.astype(np.float64), state)
    theirs, ours = theirs.double().train(), nnx.merge(graph, state)
    ours.train()
    x = images(side=64, batch=4)
    weights = np.random.default_rng(1).standard_normal((4, ours.out_features))

    def objective(model):
        return jnp.sum(model(jnp.asarray(x.transpose(0, 2, 3, 1))) * weights)

    gradients = nnx.jit(nnx.grad(objective))(ours)
    (theirs(torch.tensor(x)) * torch.tensor(weights)).sum().backward()
    named = dict(theirs.named_parameters())
    # A gradient has the names of its network, and so the same translation.
    nnx.update(ours, gradients)
    largest = max(float(p.grad.norm()) for p in named.values())
    for name, value in convert.state_dict(ours).items():
        if name in named:
            error = np.linalg.norm(value - named[name].grad.numpy())
            assert error <= 1e-11 * largest, name
        elif name.endswith("running_mean"):
            np.testing.assert_allclose(value, theirs.get_buffer(name), atol=1e-12)
    before = arrays(randomized(TorchResNet(50, width=4)))[
        "bn1.running_var"
    ] * np.float64(1)
    rows = 4 * 32 * 32
    biased, unbiased = (
        var - 0.9 * before
        for var in (ours.bn1.var[...], theirs.bn1.running_var.numpy())
    )
    np.testing.assert_allclose(biased * rows / (rows - 1), unbiased, rtol=1e-12)


SMALL = dict(depth=18, width=4)


def lightning(prefix, head, **options):
    """A checkpoint as Lightning nests it: encoder, head, a probe, optimizer, epoch."""
    tensors = TorchResNet(**SMALL, **options).state_dict()
    model = {f"{prefix}{name}": value for name, value in tensors.items()}
    model |= {f"{head}{k}": v for k, v in torch_expander(6, 16).state_dict().items()}
    model["classifier.weight"] = torch.zeros(10, 32)
    return {"epoch": 3, "state_dict": model, "optimizer_states": [{"lr": 0.1}]}


@pytest.mark.parametrize(
    "prefix, head",
    [
        ("backbone.", "projector."),
        ("backbone.", "projection_head.layers."),
        ("module.backbone.", "module.projector."),
        ("encoder.", "projector."),
        ("model.encoder.", "head."),
    ],
)
@pytest.mark.parametrize("numbered", thinned([False, True], keep=[True]))
def test_prefixes(tmp_path, prefix, head, numbered):
    path = tmp_path / "last.ckpt"
    checkpoint = lightning(prefix, head, numbered=numbered)
    torch.save(checkpoint, path)
    found = convert.state_dict(convert.load_resnet(path))
    names = TorchResNet(**SMALL).state_dict()
    values = checkpoint["state_dict"].values()
    for (name, _), value in zip(names.items(), values, strict=False):
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(found.pop(name), value)
    assert not found
    head_found = convert.state_dict(convert.load_expander(path))
    np.testing.assert_array_equal(
        head_found["6.weight"], checkpoint["state_dict"][f"{head}6.weight"]
    )


def test_the_official_checkpoint_and_its_backbone(tmp_path):
    backbone = randomized(TorchResNet(**SMALL))
    torch.save(backbone.state_dict(), tmp_path / "resnet50.pth")
    model = {f"module.backbone.{k}": v for k, v in backbone.state_dict().items()}
    torch.save({"epoch": 1, "model": model}, tmp_path / "model.pth")
    one, other = (
        convert.state_dict(convert.load_resnet(tmp_path / name))
        for name in ("resnet50.pth", "model.pth")
    )
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_torchvisions_classifier_is_left_out():
    tensors = arrays(TorchResNet(**SMALL)) | {"fc.weight": np.zeros((9, 32))}
    assert "fc.weight" not in convert.state_dict(convert.load_resnet(tensors))


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_there_and_back_is_exact(tmp_path, depth, suffix):
    theirs = randomized(TorchResNet(depth, width=8))
    path = tmp_path / f"first{suffix}"
    if suffix == ".pth":
        torch.save(theirs.state_dict(), path)
    else:
        convert.write(path, arrays(theirs))
    convert.write(
        tmp_path / "back.safetensors", convert.state_dict(convert.load_resnet(path))
    )
    back = convert.read(tmp_path / "back.safetensors")
    expected = {k: v for k, v in arrays(theirs).items() if "num_batches" not in k}
    assert back.keys() == expected.keys()
    for name, value in expected.items():
        assert back[name].dtype == np.float32
        np.testing.assert_array_equal(back[name], value)
    # And PyTorch takes it, whole.
    fresh = TorchResNet(depth, width=8)
    fresh.load_state_dict({k: torch.tensor(v) for k, v in back.items()}, strict=True)


def test_all_of_a_vicreg_there_and_back(tmp_path):
    def model(seed):
        rngs = nnx.Rngs(seed)
        encoder = SmallResNet([4, 8], channels=3, rngs=rngs)
        return VICReg(encoder, Expander(8, 16, rngs=rngs))

    first, second = model(0), model(1)
    tensors = convert.state_dict(first)
    assert {"backbone.conv1.weight", "projector.6.weight"} <= tensors.keys()
    convert.load_state_dict(second, tensors)
    for one, other in zip(
        *(jax.tree.leaves(nnx.state(m)) for m in (first, second)), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "biases", [(True, True, False), (True, True, True), (False, False, True)]
)
def test_expanders_of_three_libraries(biases):
    theirs = randomized(torch_expander(6, 16, biases=biases)).double()
    tensors = {f"projector.{k}": v for k, v in arrays(theirs).items()}
    ours = convert.load_expander(tensors, dtype=np.float64)
    ours.eval()
    x = np.random.default_rng(0).standard_normal((9, 6))
    with torch.no_grad():
        expected = theirs(torch.tensor(x)).numpy()
        shift = theirs[6].bias.numpy() if biases[2] else 0.0
    # The randomized weights are float32 exactly, and ours are kept as such.
    np.testing.assert_allclose(ours(jnp.asarray(x)) + shift, expected, rtol=1e-12)


def test_narrow_checkpoints_are_widened(tmp_path):
    narrow = TorchResNet(**SMALL).bfloat16()
    torch.save(narrow.state_dict(), tmp_path / "narrow.pth")
    kernel = convert.load_resnet(tmp_path / "narrow.pth").conv1.kernel[...]
    assert kernel.dtype == jnp.float32
    expected = narrow.conv1.weight.detach().float().numpy().transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel, expected)


class Opened:
    """What a hostile checkpoint does when it is unpickled: it writes a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


class TestErrors:
    def tensors(self, **changed):
        return arrays(TorchResNet(**SMALL)) | changed

    def test_missing_and_unexpected_keys_are_named(self):
        tensors = self.tensors(**{"layer9.weight": np.zeros(2, np.float32)})
        del tensors["layer3.1.bn2.running_var"]
        message = "missing `layer3.1.bn2.running_var`, unexpected `layer9.weight`"
        with pytest.raises(ValueError, match=message):
            convert.load_resnet(tensors)

    def test_nothing_is_set_when_one_does_not_fit(self):
        model = convert.load_resnet(self.tensors())
        before = convert.state_dict(model)
        wrong = {k: v + 1 for k, v in before.items()}
        wrong["layer4.1.conv2.weight"] = np.zeros((32, 32, 1, 1), np.float32)
        message = (
            r"`layer4.1.conv2.weight` must have shape \(32, 32, 3, 3\), got .* 1, 1\)"
        )
        with pytest.raises(ValueError, match=message):
            convert.load_state_dict(model, wrong)
        after = convert.state_dict(model)
        assert all(np.array_equal(before[name], after[name]) for name in before)

    def test_integers_are_no_weights(self):
        tensors = self.tensors(**{"bn1.weight": np.ones(4, np.int8)})
        message = "`bn1.weight` must have a floating dtype, got int8"
        with pytest.raises(ValueError, match=message):
            convert.load_resnet(tensors)

    def test_other_depths(self):
        tensors = self.tensors()
        gone = {k: v for k, v in tensors.items() if not k.startswith("layer3.1.")}
        message = r"depth 18, 34, .* got \(2, 2, 1, 2\) basic blocks"
        with pytest.raises(ValueError, match=message):
            convert.load_resnet(gone)

    def test_loaded_networks_are_in_eval_mode(self):
        model = convert.load_resnet(self.tensors())
        before = convert.state_dict(model)
        model(jnp.ones((2, 32, 32, 3)))
        after = convert.state_dict(model)
        assert all(np.array_equal(before[name], after[name]) for name in before)

    def test_other_stems(self):
        kernel = np.zeros((4, 3, 5, 5), np.float32)
        message = r"`conv1.weight` must have shape .*, got \(4, 3, 5, 5\)"
        with pytest.raises(ValueError, match=message):
            convert.load_resnet(self.tensors(**{"conv1.weight": kernel}))

    def test_no_resnet(self):
        message = "must hold a ResNet in PyTorch's names, got `blocks.0.weight`"
        with pytest.raises(ValueError, match=message):
            convert.load_resnet({"blocks.0.weight": np.zeros(3)})
        with pytest.raises(ValueError, match="a ResNet under `encoder.` in"):
            convert.load_resnet(self.tensors(), prefix="encoder.")
        with pytest.raises(ValueError, match="must hold an expander in .* and 80 more"):
            convert.load_expander(self.tensors())

    def test_two_resnets_need_a_prefix(self):
        tensors = self.tensors()
        both = {
            f"{prefix}backbone.{k}": v + i
            for i, prefix in enumerate(["", "momentum_"])
            for k, v in tensors.items()
        }
        message = "under each of `backbone.`, `momentum_backbone.`"
        with pytest.raises(ValueError, match=f"`prefix` must be given, .* {message}"):
            convert.load_resnet(both)
        model = convert.load_resnet(both, prefix="momentum_backbone.")
        expected = tensors["bn1.bias"] + 1
        np.testing.assert_array_equal(model.bn1.bias[...], expected)

    @pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
    @pytest.mark.parametrize("left", [0, 100])
    def test_damaged_files(self, tmp_path, suffix, left):
        path = tmp_path / f"torn{suffix}"
        if suffix == ".pth":
            torch.save(TorchResNet(**SMALL).state_dict(), path)
        else:
            convert.write(path, self.tensors())
        path.write_bytes(path.read_bytes()[:left])
        with pytest.raises(ValueError, match=f"`path` must be .*damaged.*torn{suffix}"):
            convert.load_resnet(path)

    def test_a_text_file_is_no_checkpoint(self, tmp_path):
        path = tmp_path / "resnet50.pth"
        path.write_text("resnet50, see the wiki\n")
        with pytest.raises(
            ValueError, match="`path` must be a PyTorch file .*resnet50"
        ):
            convert.load_resnet(path)

    @pytest.mark.parametrize(
        "content",
        [b"\x80\x02J\x00", b"\x80\x02G\x00", b"\x80\x02X\x01\x00\x00\x00\xff."],
    )
    def test_a_pickle_that_is_cut_off(self, tmp_path, content):
        (tmp_path / "torn.pth").write_bytes(content)
        with pytest.raises(ValueError, match="`path` must be a PyTorch file .*torn"):
            convert.read(tmp_path / "torn.pth")

    @pytest.mark.parametrize(
        "tensors, message",
        [
            ({0: torch.ones(2)}, "must hold tensors by name, got .* with 0"),
            ({"a": torch.ones(2).to_sparse()}, "dense tensors .*`a` of .*sparse_coo"),
            ({"a": torch.ones(2, device="meta")}, "dense tensors .*`a` of"),
            ({"a": torch.ones(2).to(torch.float8_e4m3fn)}, "`a` of torch.float8_e4m3"),
        ],
    )
    def test_tensors_that_numpy_has_not(self, tmp_path, tensors, message):
        torch.save(tensors, tmp_path / "a.pth")
        with pytest.raises(ValueError, match=message):
            convert.read(tmp_path / "a.pth")

    def test_safetensors_that_numpy_has_not(self, tmp_path):
        path = tmp_path / "a.safetensors"
        save_file({"a": torch.ones(2).to(torch.float8_e4m3fn)}, path)
        with pytest.raises(ValueError, match="must hold tensors of NumPy's dtypes, go"):
            convert.read(path)

    @pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
    def test_a_directory(self, tmp_path, suffix):
        path = tmp_path / f"a{suffix}"
        path.mkdir()
        with pytest.raises(ValueError, match="`path` must be a file of tensors, got "):
            convert.read(path)

    def test_without_pytorch(self, tmp_path, monkeypatch):
        (tmp_path / "a.pth").touch()
        monkeypatch.setitem(sys.modules, "torch", None)
        with pytest.raises(ValueError, match="without PyTorch .`pip install torch`"):
            convert.read(tmp_path / "a.pth")

    @pytest.mark.parametrize("save", [torch.save, None])
    def test_nothing_is_unpickled(self, tmp_path, save):
        path, written = tmp_path / "hostile.pth", tmp_path / "written"
        opened = Opened(written)
        hostile = {"state_dict": {"conv1.weight": torch.ones(2)}, "more": opened}
        if save:
            save(hostile, path)
        else:
            path.write_bytes(pickle.dumps(opened, protocol=2))
        with pytest.raises(ValueError, match="tensors and plain containers only"):
            convert.read(path)
        assert not written.exists()
        if not save:  # it would have: the code in it works
            pickle.loads(path.read_bytes()).close()
            assert written.exists()

    def test_a_tensor_is_no_state_dict(self, tmp_path):
        torch.save(torch.ones(3), tmp_path / "one.pth")
        with pytest.raises(ValueError, match="must hold tensors by name, .* a Tensor"):
            convert.read(tmp_path / "one.pth")

    def test_missing_file(self, tmp_path):
        for name in ("none.pth", "none.safetensors"):
            with pytest.raises(FileNotFoundError):
                convert.load_resnet(tmp_path / name)

    def test_what_is_written_has_the_usual_permissions(self, tmp_path):
        before = os.umask(0o022)
        try:
            convert.write(tmp_path / "a.safetensors", {"x": np.zeros(2, np.float32)})
        finally:
            os.umask(before)
        assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o644

    def test_only_safetensors_are_written(self, tmp_path):
        with pytest.raises(ValueError, match="`path` must end in .safetensors, got"):
            convert.write(tmp_path / "weights.pth", {})
