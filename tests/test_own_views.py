"""Views that a user writes: a whole run with them, and how config.json stores them."""

import dataclasses
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from runs import InterruptsRun, tiny

from vicreg_jax.augment import DigitViews, ImageViews
from vicreg_jax.augment.stored import views_from_json, views_to_json
from vicreg_jax.encoder import load_encoder
from vicreg_jax.pretrain import run_folder
from vicreg_jax.pretrain.__main__ import parse
from vicreg_jax.pretrain.config import Config, Launch
from vicreg_jax.pretrain.errors import UsageError
from vicreg_jax.pretrain.export import export, newest, probe
from vicreg_jax.pretrain.processes import Interrupted
from vicreg_jax.pretrain.recipes import RECIPES
from vicreg_jax.pretrain.run import run


@dataclasses.dataclass(frozen=True)
class NoisyViews:
    """All that a user writes."""

    size: int = 8
    noise: tuple[float, float] = (0.1, 0.2)

    def pair(self, key, images, aspect):
        plain = self.plain(images, aspect)
        noise = jax.random.normal(key, (2, *plain.shape))
        return plain + self.noise[0] * noise[0], plain + self.noise[1] * noise[1]

    def plain(self, images, aspect):
        return images.astype(jnp.float32) / 255


OWN = NoisyViews(noise=(0.1, 0.3))


@pytest.mark.slow
@pytest.mark.usefixtures("relaxed_promotion", "unchecked_signatures")
def test_a_run_with_own_views(tmp_path):
    config = tiny(views=OWN, probe_images=100)
    launch = Launch(out=tmp_path, mesh="data=1", probe_every=0, tensorboard=False)
    with pytest.raises(Interrupted):
        run(config, launch, Console(file=InterruptsRun()))
    assert run_folder.read_config(tmp_path) == config
    shown = io.StringIO()
    accuracies = run(config, launch, Console(file=shown))
    assert "Going on after step" in shown.getvalue()
    stored = json.loads((tmp_path / "config.json").read_text())["views"]
    kind = f"{__name__}:NoisyViews"
    assert stored == {"kind": kind, "size": 8, "noise": [0.1, 0.3]}

    programs, _ = newest(tmp_path)
    assert programs.config.views == OWN
    assert load_encoder(export(tmp_path)).views == OWN
    assert probe(tmp_path).accuracies["VICReg"] == accuracies["VICReg"]


def command(arguments):
    return parse(arguments).command


def test_settings_are_flags(monkeypatch):
    monkeypatch.setitem(RECIPES, "own", lambda: tiny(views=OWN))
    job = command(["own", "--views.noise", "0.5", "0.6", "--batch", "64"])
    assert job.config == tiny(views=NoisyViews(noise=(0.5, 0.6)), batch=64)


def test_another_kind_on_the_command_line():
    assert command(["mnist", "views:images"]).config.views == ImageViews(size=28)
    job = command(["elpv", "views:digits", "--views.size", "32", "--views.pen", "0.1"])
    assert job.config.views == DigitViews(size=32, pen=0.1)
    with pytest.raises(
        UsageError, match="views:videos; see vicreg-pretrain mnist --help"
    ):
        parse(["mnist", "views:videos"])


@pytest.mark.parametrize("views", [OWN, DigitViews(8, pen=0.1), ImageViews.official()])
def test_stored_views_are_read_back(views):
    stored = json.loads(json.dumps(views_to_json(views)))
    assert views_from_json(stored) == views


@pytest.mark.parametrize(
    "stored, message",
    [
        ({"kind": "DigitViews"}, "must name a class as module:Class, .* 'DigitViews'"),
        (
            {"kind": "no_module:Views"},
            "got 'no_module:Views': No .* PYTHONPATH .* of the module no_module",
        ),
        ({"kind": f"{__name__}:Other"}, ":Other': module .* has no"),
        ({"kind": "os:system", "command": "false"}, "with `pair`, .* got 'os:system'"),
        ({"kind": "io:StringIO"}, "a class with `pair`, `plain` and `size`"),
        ({"kind": f"{__name__}:NoisyViews", "sound": 1}, "settings .* 'sound'"),
    ],
)
def test_stored_views_that_cannot_be_read(stored, message):
    with pytest.raises(ValueError, match=message):
        views_from_json(stored)


@dataclasses.dataclass(frozen=True)
class Masked(NoisyViews):
    mask: object = None


@dataclasses.dataclass(frozen=True)
class ByName(NoisyViews):
    options: dict = dataclasses.field(default_factory=dict)


def of_a_local_class():
    @dataclasses.dataclass(frozen=True)
    class Local(NoisyViews):
        pass

    return Local()


@pytest.mark.parametrize(
    "views, message",
    [
        (Masked(mask=np.ones(3)), "what config.json can store, .* not JSON serializ"),
        (ByName(options={1: 2}), r"settings that JSON can store .* options=\{'1': 2\}"),
        (of_a_local_class(), "what config.json can store, .* in a module that can be"),
    ],
)
def test_views_that_cannot_be_stored_do_not_start(views, message, tmp_path):
    launch = Launch(out=tmp_path / "run")
    with (
        pytest.raises(ValueError, match=message),
        run_folder.claim(tiny(views=views), launch, images=9),
    ):
        pass
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.usefixtures("unchecked_signatures")
@pytest.mark.parametrize("views", [8, NoisyViews, Launch()])
def test_configurations_refuse_what_is_no_views(views):
    message = "`views` must be an instance of a dataclass with .* got"
    with pytest.raises(ValueError, match=message):
        Config(views=views)
