"""Encoders in files: what is written is what is read, and features are the job's."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from flax import nnx
from photographs import CHINA
from runs import begun, tiny
from safetensors.numpy import save_file

import vicreg_jax
from vicreg_jax import convert
from vicreg_jax.augment import DigitViews, ImageViews
from vicreg_jax.decode import decode
from vicreg_jax.encoder import Encoder, load_encoder, save_encoder
from vicreg_jax.nn import ResNet, SmallResNet
from vicreg_jax.pretrain import Run, evaluation
from vicreg_jax.pretrain.export import write_encoder
from vicreg_jax.pretrain.input import load_datasets, sample
from vicreg_jax.pretrain.mesh import make_mesh
from vicreg_jax.pretrain.step import Programs

RESNET = {"depth": 18, "width": 4}
# Has all entries, of the right types.
DESCRIPTION = {"architecture": {"name": ""}, "views": {"kind": ""}, "about": {}}
DESCRIPTION |= {"size": 40, "channels": 3}
SMALL = {"widths": [4, 8], "stem_stride": 1, "channels": 1}


def resnet():
    model = ResNet(**RESNET, rngs=nnx.Rngs(3))
    # Statistics that are not those of a new network, so that eval mode matters.
    state = nnx.state(model, nnx.BatchStat)
    nnx.update(model, jax.tree.map(lambda x: 1.3 * x - 0.01, state))
    model.eval()
    return model


@nnx.jit
def features(model, x):
    return model(x)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "encoder.safetensors"
    save_encoder(
        path,
        resnet(),
        architecture={"name": "ResNet", **RESNET},
        views=ImageViews(size=32, mean=(0.1, 0.2, 0.3)),
        size=40,
        channels=3,
        crop="device",
        recipe="photos",
        step=7,
    )
    return path


class TestFile:
    def test_says_what_it_is(self, saved):
        encoder = vicreg_jax.load_encoder(saved)
        assert encoder.views == ImageViews(size=32, mean=(0.1, 0.2, 0.3))
        assert (encoder.size, encoder.channels) == (40, 3)
        assert encoder.about["step"] == 7 and encoder.about["recipe"] == "photos"
        assert encoder.about["package"].startswith("vicreg_jax ")

    def test_the_same_weights(self, saved):
        ours, theirs = (
            convert.state_dict(m) for m in (load_encoder(saved).model, resnet())
        )
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            np.testing.assert_array_equal(value, theirs[name])

    def test_torchvision_reads_its_tensors(self, saved):
        assert "layer4.1.bn2.running_var" in convert.read(saved)
        convert.load_resnet(saved)

    def test_a_small_encoder(self, tmp_path):
        model = SmallResNet(**SMALL, rngs=nnx.Rngs(0))
        path = tmp_path / "small.safetensors"
        options = {"views": DigitViews(size=8), "size": 8, "channels": 1}
        save_encoder(
            path, model, architecture={"name": "SmallResNet", **SMALL}, **options
        )
        assert load_encoder(path).embed(np.zeros((3, 8, 8), np.uint8)).shape == (3, 8)

    def test_a_class_of_the_users_own(self, tmp_path):
        class Own(nnx.Module):
            def __init__(self, rngs):
                self.linear = nnx.Linear(64, 5, rngs=rngs)

            def __call__(self, images):
                return self.linear(images.reshape(len(images), -1))

        own, path = Own(nnx.Rngs(0)), tmp_path / "own.safetensors"
        options = {"views": DigitViews(size=8), "size": 8, "channels": 1}
        save_encoder(path, own, architecture={"name": "Own"}, **options)
        with pytest.raises(ValueError, match="`model` must be given .* .* holds a Own"):
            load_encoder(path)
        encoder = load_encoder(path, Own(nnx.Rngs(1)))
        np.testing.assert_array_equal(encoder.model.linear.kernel, own.linear.kernel)

    def test_a_file_of_torchvision(self, tmp_path):
        path = tmp_path / "resnet18.safetensors"
        convert.write(path, convert.state_dict(resnet()))
        encoder = load_encoder(path)
        assert encoder.views == ImageViews() and encoder.size == 256

    def test_a_file_of_torchvision_into_a_given_module(self, tmp_path):
        path = tmp_path / "resnet18.safetensors"
        wanted = convert.state_dict(resnet())
        # As in a checkpoint of lightly, whose classifier is not the encoder's.
        tensors = {f"backbone.{name}": value for name, value in wanted.items()}
        convert.write(path, tensors | {"fc.weight": np.zeros((9, 32), np.float32)})
        own = nnx.eval_shape(lambda: ResNet(**RESNET, rngs=nnx.Rngs(0)))
        assert load_encoder(path, own).model is own
        for name, value in convert.state_dict(own).items():
            np.testing.assert_array_equal(value, wanted[name])
        other = nnx.eval_shape(lambda: SmallResNet(**SMALL, rngs=nnx.Rngs(0)))
        with pytest.raises(ValueError, match="must have the keys of the network"):
            load_encoder(path, other)


class TestEmbed:
    def test_paths_images_and_arrays_agree(self, saved, tmp_path):
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (5, 40, 40, 3), np.uint8)
        paths = [tmp_path / f"{i}.png" for i in range(5)]
        for path, image in zip(paths, pixels, strict=True):
            PIL.Image.fromarray(image).save(path)
        encoder = load_encoder(saved)
        wanted = encoder.embed(pixels)
        assert wanted.shape == (5, 32) and wanted.dtype == np.float32
        assert wanted.std(axis=0).max() > 1e-3  # images differ in their features
        np.testing.assert_allclose(encoder.embed(paths), wanted, atol=1e-6)
        opened = [PIL.Image.open(path) for path in paths]
        np.testing.assert_allclose(encoder.embed(opened), wanted, atol=1e-6)
        np.testing.assert_allclose(encoder.embed(str(paths[0])), wanted[:1], atol=1e-6)
        np.testing.assert_allclose(encoder.embed(pixels, batch=2), wanted, atol=1e-6)

    def test_files_are_cropped_from_their_own_pixels(self, tmp_path):
        image = PIL.Image.fromarray(CHINA)
        image.save(tmp_path / "china.png")
        model = ResNet(**RESNET, rngs=nnx.Rngs(3))
        model.eval()
        views = ImageViews(size=28, center=0.875)
        encoder = Encoder(model, views, 40, 3)
        # Resize(32) and CenterCrop(28) of torchvision.
        middle = image.resize((int(32 * 640 / 427), 32), PIL.Image.Resampling.BICUBIC)
        middle = middle.crop((10, 2, 38, 30))
        pixels = (np.asarray(middle) / 255 - np.array(views.mean)) / views.std
        wanted = features(model, np.float32(pixels[None]))
        found = encoder.embed(tmp_path / "china.png")
        np.testing.assert_allclose(found, wanted, atol=0.02 * np.abs(wanted).max())
        squeezed = dataclasses.replace(encoder, crop="device").embed(image)
        assert np.abs(squeezed - found).max() > 0.1 * np.abs(found).max()

    def test_preprocessing_is_in_it(self, saved):
        pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), np.uint8)
        encoder = load_encoder(saved)
        plain = jax.jit(encoder.views.plain)(pixels, np.ones(2, np.float32))
        np.testing.assert_allclose(
            encoder.embed(pixels), features(resnet(), plain), rtol=1e-5, atol=1e-5
        )

    def test_the_aspect_of_the_originals(self):
        pixels = np.random.default_rng(0).integers(0, 256, (30, 90, 3), np.uint8)
        wide = PIL.Image.fromarray(pixels)
        model = ResNet(**RESNET, rngs=nnx.Rngs(3))
        model.eval()
        encoder = Encoder(model, ImageViews(size=32), 40, 3, crop="device")
        squeezed = decode(wide, size=40, channels=3).pixels[None]
        found = encoder.embed(squeezed, aspect=np.array([3.0]))
        np.testing.assert_allclose(found, encoder.embed(wide), atol=1e-6)
        assert (
            np.abs(encoder.embed(squeezed) - found).max() > 1e-3 * np.abs(found).max()
        )
        with pytest.raises(ValueError, match=r"shape \(1,\), got \(2,\)"):
            encoder.embed(squeezed, aspect=np.ones(2))
        with pytest.raises(ValueError, match="`aspect` must be None if `images`"):
            encoder.embed(wide, aspect=np.ones(1))

    @pytest.mark.parametrize(
        "images, error, match",
        [
            (
                np.zeros((2, 8, 8, 3), np.float32),
                TypeError,
                "must be uint8, got float",
            ),
            (np.zeros((2, 8, 8, 1), np.uint8), ValueError, r"3\), got \(2, 8, 8, 1\)"),
            ([3], TypeError, "paths or PIL images, or be a uint8 array, got int"),
            ([], ValueError, "at least one image"),
        ],
    )
    def test_what_is_no_image(self, saved, images, error, match):
        with pytest.raises(error, match=match):
            load_encoder(saved).embed(images)

    @pytest.mark.parametrize("batch", [0, -1])
    def test_no_batch(self, saved, batch):
        pixels = np.zeros((2, 40, 40, 3), np.uint8)
        message = f"`batch` must be at least 1, got {batch}"
        with pytest.raises(ValueError, match=message):
            load_encoder(saved).embed(pixels, batch=batch)


class TestErrors:
    def test_missing(self, tmp_path):
        with pytest.raises(ValueError, match="`path` must be a file or a run, got"):
            load_encoder(tmp_path / "nothing")
        with pytest.raises(ValueError, match="vicreg-pretrain export"):
            load_encoder(tmp_path)

    @pytest.mark.parametrize("left", [0, 6, 400])
    def test_damaged(self, saved, left):
        saved.write_bytes(saved.read_bytes()[:left])
        with pytest.raises(ValueError, match="undamaged safetensors file"):
            load_encoder(saved)

    @pytest.mark.parametrize(
        "text",
        [
            *("{}", "[]", "null", "photos", '{"architecture": {}}'),
            json.dumps(DESCRIPTION | {"size": "40"}),
            json.dumps(DESCRIPTION | {"views": {}}),
            json.dumps(DESCRIPTION | {"architecture": {}}),
        ],
    )
    def test_metadata_of_something_else(self, tmp_path, text):
        path = tmp_path / "other.safetensors"
        tensors = {"conv1.weight": np.zeros(3, np.float32)}
        save_file(tensors, path, metadata={"vicreg_jax": text})
        message = (
            "must have the metadata that `save_encoder` writes, .*other.safetensors"
        )
        with pytest.raises(ValueError, match=message):
            load_encoder(path)

    def test_of_something_else(self, tmp_path):
        path = tmp_path / "other.safetensors"
        save_file({"blocks.0.weight": np.zeros(3, np.float32)}, path)
        with pytest.raises(ValueError, match="must hold a ResNet in PyTorch's names"):
            load_encoder(path)


class TestRun:
    """The features of an exported encoder are those that the run's probes see."""

    def test_a_classifier_has_no_encoder(self, tmp_path):
        (tmp_path / "config.json").write_text('{"protocol": "linear"}')
        with pytest.raises(ValueError, match="`path` must be a pretraining run, got"):
            load_encoder(tmp_path)

    def test_before_the_end_it_is_that_of_the_newest_checkpoint(self, tmp_path):
        """Nothing is written, as the run may be going on."""
        out = tmp_path / "run"
        begun(out, tiny(batch=8), 8)
        written = load_encoder(out)
        (out / "encoder.safetensors").unlink()
        before = sorted(out.rglob("*"))
        found = Run.open(out).encoder
        assert sorted(out.rglob("*")) == before
        assert found.about == written.about and found.about["step"] == 0
        images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), np.uint8)
        np.testing.assert_array_equal(found.embed(images), written.embed(images))

    def test_features_are_those_of_the_run(self, tmp_path):
        config = tiny()
        programs = Programs(config, make_mesh("data=1"), steps_per_epoch=4)
        state = programs.start()
        source = sample(load_datasets(config).train, 30)
        wanted = evaluation.features(programs, state, source)
        images = np.stack([source[i].image for i in range(len(source))])
        encoder = load_encoder(write_encoder(tmp_path, programs, state))
        np.testing.assert_allclose(encoder.embed(images), wanted.features, atol=1e-5)
        assert load_encoder(tmp_path).about["step"] == 0
        assert "recipe" not in encoder.about

    def test_it_is_written_from_the_host(self, tmp_path, monkeypatch):
        """The first of several processes writes it alone."""
        programs = Programs(tiny(), make_mesh("data=8"), steps_per_epoch=4)
        state, network = programs.start(), Programs.network

        def on_the_host(self, state):
            assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(state))
            return network(self, state)

        monkeypatch.setattr(Programs, "network", on_the_host)
        assert write_encoder(tmp_path, programs, state).exists()

    def test_its_recipe_is_in_it(self, tmp_path):
        programs = Programs(tiny(), make_mesh("data=1"), 1)
        starts = [{"recipe": "mnist"}, {"recipe": "digits"}]
        (tmp_path / "run.json").write_text(json.dumps(starts))
        path = write_encoder(tmp_path, programs, programs.start())
        assert load_encoder(path).about["recipe"] == "digits"
        (tmp_path / "run.json").write_text('[{"recipe": null}]')
        path = write_encoder(tmp_path, programs, programs.start())
        assert "recipe" not in load_encoder(path).about

    def test_dtype_is_kept(self, tmp_path):
        config = tiny(dtype="bfloat16")
        programs = Programs(config, make_mesh("data=1"), steps_per_epoch=4)
        path = write_encoder(tmp_path, programs, programs.start())
        assert load_encoder(path).model.conv1.dtype == jnp.bfloat16
