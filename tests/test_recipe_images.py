"""The recipe for your own images, whose settings depend on the images."""

import dataclasses

import numpy as np
import PIL.Image
import pytest
from array_record.python.array_record_data_source import ArrayRecordDataSource
from photographs import CHINA, FLOWER, write_photographs
from runs import MIRRORED
from spectra import QUICK

from vicreg_jax.augment import ImageViews
from vicreg_jax.pretrain import pretrain, recipes
from vicreg_jax.pretrain.__main__ import parse
from vicreg_jax.pretrain.errors import UsageError
from vicreg_jax.pretrain.input import array_records, open_source, pack, survey
from vicreg_jax.pretrain.input.datasets import in_memory_by_name
from vicreg_jax.pretrain.run_folder import absolute


@pytest.fixture
def photographs(tmp_path):
    return write_photographs(tmp_path / "photographs")


def parsed(*words):
    return parse([str(word) for word in words]).command.config


class TestSurvey:
    def test_folders(self, photographs):
        (photographs / "china" / "broken.jpg").write_text("no image")
        # Of 13 images a fifth is held out, 3. Shorter sides are 90.
        assert survey(photographs) == (10, 88, 3, False)

    def test_gray_files_of_any_mode_have_one_channel(self, tmp_path):
        for index in range(3):
            gray = PIL.Image.fromarray(CHINA[:20, : 30 + index]).convert("L")
            gray.convert("RGB").save(tmp_path / f"{index}.jpg")
        assert survey(tmp_path) == (3, 32, 1, False)

    def test_large_files(self, tmp_path):
        PIL.Image.fromarray(CHINA).save(tmp_path / "0.png")
        assert survey(tmp_path) == (1, 256, 3, False)

    def test_records(self, photographs, tmp_path, monkeypatch):
        opened = []

        class Counted(ArrayRecordDataSource):
            def __init__(self, paths):
                opened.append(paths)
                super().__init__(paths)

        monkeypatch.setattr(array_records, "ArrayRecordDataSource", Counted)
        pack(open_source(photographs), tmp_path / "records")
        assert survey(tmp_path / "records") == survey(photographs)
        # To count the images, and to look at all of them.
        assert len(opened) == 2

    def test_arrays(self, tmp_path):
        np.save(tmp_path / "a.npy", np.zeros((40, 8, 8, 3), np.uint8))
        assert survey(tmp_path / "a.npy") == (40, 8, 3, True)

    def test_an_image_of_too_many_pixels_is_passed_over(self, tmp_path, monkeypatch):
        PIL.Image.new("L", (40, 40)).save(tmp_path / "a.png")
        PIL.Image.new("L", (400, 400)).save(tmp_path / "b.png")
        # Pillow refuses twice as many.
        monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 40 * 40)
        assert survey(tmp_path) == (2, 40, 1, False)

    def test_nothing_to_read(self, tmp_path):
        (tmp_path / "broken.jpg").write_text("no image")
        with pytest.raises(UsageError, match="--data must hold images that can be rea"):
            survey(tmp_path)


class TestRecipe:
    def test_settings_follow_the_images(self, photographs):
        config = recipes.images(photographs)
        assert (config.size, config.views.size, config.channels) == (88, 88, 3)
        assert (config.encoder, config.width, config.epochs) == ("resnet18", 64, 1000)
        assert config.views.local_size == 38
        assert config.data == str(photographs)
        changed = recipes.images(photographs, size=48, epochs=100, batch=4)
        assert (changed.size, changed.views.size, changed.encoder) == (48, 48, "small")
        assert (changed.epochs, changed.batch) == (100, 4)
        assert (config.views.blur, changed.views.blur) == ((0.5, 0.5), (0.0, 0.0))

    def test_a_vit_has_whole_patches(self, photographs, tmp_path):
        config = recipes.images(photographs, encoder="vit_small")
        assert (config.size, config.views.size) == (80, 80)
        views = ImageViews(size=64)
        config = recipes.images(photographs, size=90, encoder="vit_small", views=views)
        assert (config.size, config.views) == (90, views)
        np.save(tmp_path / "a.npy", np.zeros((40, 8, 8), np.uint8))
        config = recipes.images(tmp_path / "a.npy", encoder="vit_small")
        assert (config.size, config.views.size) == (8, 16)

    def test_arrays_keep_their_size(self, tmp_path):
        np.save(tmp_path / "a.npy", np.zeros((40, 80, 80), np.uint8))
        config = recipes.images(tmp_path / "a.npy", size=32)
        assert (config.size, config.views.size, config.channels) == (80, 32, 1)

    @pytest.mark.parametrize(
        "images, batch", [(9, 8), (16, 16), (95, 16), (96, 32), (240, 64), (9999, 256)]
    )
    def test_an_epoch_has_steps(self, images, batch):
        assert recipes._batch(images) == batch


class TestCommandLine:
    def test_a_path_takes_the_recipe(self, photographs):
        assert parsed("--data", photographs) == recipes.images(photographs)
        assert parsed("images", f"--data={photographs}") == recipes.images(photographs)

    def test_flags_change_what_depends_on_them(self, photographs):
        words = ("--data", photographs, "--size", 48, "--views.flip", 0)
        wanted = recipes.images(photographs, size=48)
        views = dataclasses.replace(wanted.views, flip=0.0)
        assert parsed(*words) == dataclasses.replace(wanted, views=views)
        words = ("--data", photographs, "--encoder", "small", "--width", 8)
        wanted = recipes.images(photographs, encoder="small", width=8)
        assert parsed(*words) == wanted

    @pytest.mark.parametrize("name", ["cifar", "arrays-2024"])
    def test_a_folder_with_the_name_of_something_else(
        self, name, tmp_path, monkeypatch
    ):
        write_photographs(tmp_path / name)
        monkeypatch.chdir(tmp_path)
        assert parsed("--data", name) == recipes.images(name)
        assert absolute(name) == str(tmp_path / name)
        assert not in_memory_by_name(name)

    @pytest.mark.parametrize(
        "flag, value", [("--encoder", "50"), ("--size", "resnet18"), ("--size", "²")]
    )
    def test_a_value_of_another_flag_is_refused(self, flag, value, photographs):
        with pytest.raises(UsageError, match=f"{flag}.* see vicreg-pretrain images"):
            parsed("--data", photographs, flag, value)

    def test_no_pixels_are_refused(self, photographs):
        with pytest.raises(UsageError, match="--size must be at least 1, got 0"):
            parsed("--data", photographs, "--size", 0)

    @pytest.mark.parametrize(
        "words, message",
        [
            (
                "mnist --size",
                "Missing value for argument '--size'.*see .* mnist --help",
            ),
            ("export run --size", "Unrecognized .*--size.* see vicreg-pretrain export"),
        ],
    )
    def test_a_flag_without_its_value(self, words, message):
        with pytest.raises(UsageError, match=message):
            parsed(*words.split())

    def test_help_shows_what_suits_the_images(self, photographs, capsys):
        with pytest.raises(SystemExit):
            parsed("--data", photographs, "--help")
        shown = capsys.readouterr().out
        assert "(default: resnet18)" in shown and "(default: 1000)" in shown
        with pytest.raises(SystemExit):
            parsed("--data", photographs / "nothing", "--help")

    def test_a_path_in_the_place_of_a_recipe(self, photographs, tmp_path):
        with pytest.raises(UsageError, match="is a path: give it as --data .*photogr"):
            parsed(photographs)
        (tmp_path / "config.json").touch()
        with pytest.raises(
            UsageError, match="is a run: give a command before it, such"
        ):
            parsed(tmp_path)

    def test_arrays_are_no_path(self):
        with pytest.raises(TypeError, match="`data` must be a path, got ndarray; save"):
            recipes.images(np.zeros((40, 8, 8), np.uint8))

    def test_completions_of_a_shell_know_every_flag(self, capsys):
        with pytest.raises(SystemExit):
            parsed("--tyro-print-completion", "bash")
        assert "--expander" in capsys.readouterr().out

    def test_data_must_be_given(self):
        with pytest.raises(UsageError, match="--data must be given with the recipe im"):
            parsed("images")


@pytest.mark.slow
@pytest.mark.usefixtures("relaxed_promotion", "unchecked_signatures")
def test_a_run(tmp_path):
    for index in range(15):
        for name, pixels in (("china", CHINA), ("flower", FLOWER)):
            part = pixels[20 * index : 20 * index + 40, :50]
            PIL.Image.fromarray(part).save(tmp_path / f"{name}{index}.png")
    small = {"size": 8, "width": 4, "expander": 16, "views": MIRRORED}
    config = recipes.images(tmp_path, epochs=1, **small)
    assert (config.channels, config.batch) == (3, 16)
    out = tmp_path / "run"
    run = pretrain(config, out=out, **QUICK)
    assert len(run.metrics["step"]) == 1 and run.evaluation is None
    assert run.encoder.embed(tmp_path / "china0.png").shape == (1, 16)
