"""The command `embed`: features in a file, and a picture of nearest neighbors."""

import shutil

import numpy as np
import pytest
from flax import nnx
from matplotlib.image import imread
from photographs import write_photographs
from runs import arrays, tiny

from vicreg_jax.augment import ImageViews
from vicreg_jax.encoder import load_encoder, save_encoder
from vicreg_jax.nn import SmallResNet
from vicreg_jax.pretrain import embed as embed_module
from vicreg_jax.pretrain import evaluation
from vicreg_jax.pretrain import features as frozen
from vicreg_jax.pretrain.checkpoints import Checkpoints
from vicreg_jax.pretrain.contact_sheet import (
    Queries,
    contact_sheet,
    nearest_neighbors,
)
from vicreg_jax.pretrain.embed import embed, features, open_encoder
from vicreg_jax.pretrain.errors import UsageError
from vicreg_jax.pretrain.export import export, newest, probe
from vicreg_jax.pretrain.input import (
    Arrays,
    UnreadableError,
    load_datasets,
    open_source,
)
from vicreg_jax.pretrain.mesh import make_mesh
from vicreg_jax.pretrain.run_folder import contents, write_json
from vicreg_jax.pretrain.step import Programs

CONFIG = {"widths": [4, 8], "stem_stride": 1, "channels": 3}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    path = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    model = SmallResNet(**CONFIG, rngs=nnx.Rngs(0))
    architecture = {"name": "SmallResNet", **CONFIG}
    options = {"views": ImageViews(size=16), "size": 20, "channels": 3, "step": 7}
    save_encoder(path, model, architecture=architecture, **options)
    return path


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("photographs"))


def damage(folder):
    """Makes one photograph unreadable, and returns its path."""
    path = folder / "flower" / "1.jpg"
    path.write_bytes(b"no image")
    return path


class TestFile:
    def test_features_names_labels_and_classes(self, encoder, photographs, tmp_path):
        out = tmp_path / "features.npz"
        (printed,) = embed(encoder, str(photographs), out)
        assert (
            "Embedded 12 images" in printed and "at step 7: 8 features each" in printed
        )
        found = arrays(out)
        assert found["features"].dtype == np.float32
        assert found["names"][0] == str(photographs / "china" / "0.png")
        assert found["labels"].tolist() == [0] * 6 + [1] * 6
        assert found["classes"].tolist() == ["china", "flower"]
        # As from the files one by one, so the aspect ratios are those of the originals.
        wanted = load_encoder(encoder).embed(found["names"].tolist())
        np.testing.assert_allclose(found["features"], wanted, atol=1e-5)

    def test_batches_do_not_matter(self, encoder, photographs):
        source = open_source(photographs, size=20)
        loaded = load_encoder(encoder)
        whole, parts = (features(loaded, source, batch=n) for n in (12, 5))
        np.testing.assert_allclose(parts.features, whole.features, atol=1e-5)
        np.testing.assert_array_equal(parts.ids, np.arange(12))

    def test_arrays_without_labels(self, encoder, tmp_path):
        images = np.random.default_rng(0).integers(0, 256, (3, 20, 20, 3), np.uint8)
        np.save(tmp_path / "images.npy", images)
        embed(encoder, str(tmp_path / "images.npy"), tmp_path / "out.npz")
        found = arrays(tmp_path / "out.npz")
        assert found["labels"].tolist() == [-1] * 3 and not found["classes"].size
        wanted = load_encoder(encoder).embed(images)
        np.testing.assert_allclose(found["features"], wanted, atol=1e-5)

    def test_unreadable_images_are_left_out_and_named(self, encoder, tmp_path):
        folder = write_photographs(tmp_path / "photographs")
        path, out = damage(folder), tmp_path / "out.npz"
        printed = embed(encoder, str(folder), out, neighbors=2)
        assert printed[1] == f"1 image could not be read: {path}"
        found = arrays(out)
        assert len(found["features"]) == len(found["labels"]) == 11
        assert str(path) not in found["names"]
        with pytest.raises(UnreadableError, match="cannot read .*flower/1.jpg"):
            embed(encoder, str(folder), out, unreadable="fatal")

    def test_none_is_readable(self, encoder, tmp_path):
        (tmp_path / "a.png").write_bytes(b"no image")
        with pytest.raises(UsageError, match="readable images; 1 image could not .*a"):
            embed(encoder, str(tmp_path), tmp_path / "out.npz")

    def test_images_of_another_shape(self, encoder, tmp_path):
        with pytest.raises(UsageError, match=r"\(20, 20, 3\), got \(8, 8, 1\)"):
            embed(encoder, "digits", tmp_path / "out.npz")

    @pytest.mark.parametrize("neighbors", [-1, 12])
    def test_more_neighbors_than_images(
        self, encoder, photographs, tmp_path, neighbors
    ):
        with pytest.raises(UsageError, match=f"from 0 to 11, .* got {neighbors}"):
            out = tmp_path / "out.npz"
            embed(encoder, str(photographs), out, neighbors=neighbors)


def among(features, rows):
    """Returns queries that are among the images, without pictures."""
    return Queries(features[list(rows)], np.array(rows), None)


class TestNeighbors:
    def test_nearest_by_cosine(self):
        angles = np.radians([0.0, 10.0, 25.0, 90.0])
        lengths = np.array([1.0, 9.0, 1.0, 0.1])
        rows = lengths[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        found, cosines = nearest_neighbors(rows, among(rows, [0, 2]), 2)
        assert found.tolist() == [[1, 2], [1, 0]]
        wanted = np.cos(np.radians([[10, 25], [15, 25]]))
        np.testing.assert_allclose(cosines, wanted, atol=1e-12)

    def test_no_image_is_its_own_neighbor_among_copies(self):
        rows = np.ones((9, 2))
        for neighbors in (1, 3, 8):
            found, _ = nearest_neighbors(rows, among(rows, range(9)), neighbors)
            assert found.shape == (9, neighbors)
            assert all(i not in row for i, row in enumerate(found.tolist()))

    def test_the_picture_shows_images_and_their_neighbors(self):
        pixels = np.arange(12, dtype=np.uint8).repeat(6).reshape(12, 2, 3, 1) * 20
        source = Arrays(pixels, np.arange(12, dtype=np.int32) % 2, ("cat", "dog"))
        angles = np.arange(12) / 20
        rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        figure = contact_sheet(rows, np.arange(12), source, 2)
        panels = np.array(figure.axes).reshape(8, 3)
        shown = np.vectorize(lambda axes: axes.images[0].get_array()[0, 0] // 20)
        for query, *near in shown(panels).tolist():
            assert all(abs(other - query) <= 2 for other in near) and query not in near
        for query, *near in panels:
            for axes in near:
                differs = axes.get_xlabel() != query.get_xlabel()
                assert (axes.xaxis.label.get_color() == "red") == differs
        names = {axes.get_xlabel() for axes in panels.flat}
        assert names == {"cat", "dog"}

    def test_it_lies_beside_the_features(self, encoder, photographs, tmp_path):
        printed = embed(encoder, str(photographs), tmp_path / "a.npz", neighbors=3)
        assert printed[-1] == f"Nearest neighbors by cosine are in {tmp_path / 'a.png'}"
        assert imread(tmp_path / "a.png").std() > 0.05

    def test_queries_of_the_user(self, encoder, photographs, tmp_path, monkeypatch):
        """A copy from outside finds its original first, an image of the data others."""
        drawn = []

        def kept(*arguments):
            drawn.append(contact_sheet(*arguments))
            return drawn[0]

        monkeypatch.setattr(embed_module, "contact_sheet", kept)
        inside = photographs / "flower" / "3.jpg"
        copy = shutil.copy(photographs / "china" / "0.png", tmp_path / "copy.png")
        queries = [tmp_path / "copy.png", inside]
        out = tmp_path / "a.npz"
        embed(encoder, str(photographs), out, neighbors=2, queries=queries)
        assert len(arrays(out)["features"]) == 12
        first, second = np.array(drawn[0].axes).reshape(2, 3)
        assert [axes.get_title() for axes in first[:2]] == ["query", "1.000"]
        assert [axes.get_xlabel() for axes in first[:2]] == ["copy.png", "china"]
        assert second[0].get_xlabel() == "3.jpg"
        itself = second[0].images[0].get_array()
        for axes in second[1:]:
            assert np.any(axes.images[0].get_array() != itself)
        colors = {axes.xaxis.label.get_color() for axes in drawn[0].axes}
        assert "red" not in colors  # queries have no class
        with open(copy, "wb") as file:
            file.write(b"no image")
        (tmp_path / "a.npz").unlink()
        with pytest.raises(UsageError, match="--query: cannot read .*copy.png"):
            embed(encoder, str(photographs), out, neighbors=2, queries=queries)
        assert not out.exists()
        for wrong in ({"queries": queries}, {"queries": [], "neighbors": 2}):
            with pytest.raises(UsageError, match="--query must name image files and"):
                embed(encoder, str(photographs), out, **wrong)


def twice(folder):
    """Writes the photographs twice, because k-NN needs ten of them."""
    write_photographs(folder)
    for path in sorted(folder.rglob("*.*g")):
        shutil.copy(path, path.with_stem(f"{path.stem}-again"))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of photographs with one checkpoint, stopped before its first step."""
    out = tmp_path_factory.mktemp("run")
    folder = twice(tmp_path_factory.mktemp("photographs"))
    config = tiny(data=str(folder), size=8, batch=8)
    programs = Programs(config, make_mesh("data=1"), steps_per_epoch=1)
    write_json(out / "config.json", contents(config, images=9))
    write_json(out / "run.json", [{"recipe": "images"}])
    with Checkpoints(out / "checkpoints", warn=print) as checkpoints:
        checkpoints.save(3, programs.start(), wait=True)
    return out


class TestRun:
    @pytest.mark.slow
    def test_its_newest_checkpoint_is_used(self, run, tmp_path):
        programs, state = newest(run)
        data = programs.config.data
        (printed,) = embed(run, data, tmp_path / "out.npz")
        assert "at step 0" in printed
        assert open_encoder(run).about["recipe"] == "images"
        source = open_source(data, size=8, channels=1)
        wanted = evaluation.features(programs, state, source)
        found = arrays(tmp_path / "out.npz")
        np.testing.assert_allclose(found["features"], wanted.features, atol=1e-5)
        embed(export(run), data, tmp_path / "again.npz")
        again = arrays(tmp_path / "again.npz")["features"]
        np.testing.assert_allclose(again, found["features"], atol=1e-5)

    def test_a_run_without_a_checkpoint(self, tmp_path):
        write_json(tmp_path / "config.json", contents(tiny(), images=9))
        with pytest.raises(UsageError, match="ENCODER must have a checkpoint, got"):
            open_encoder(tmp_path)
        write_json(tmp_path / "config.json", {"protocol": "linear"})
        with pytest.raises(UsageError, match="--init must be a pretraining run, got"):
            open_encoder(tmp_path, argument="--init")

    @pytest.mark.slow
    def test_unreadable_held_out_images_are_counted(self, run, tmp_path):
        folder = twice(tmp_path / "photographs")
        programs, state = newest(run)
        config = tiny(data=str(folder), size=8, batch=8)
        datasets = load_datasets(config)
        held_out = datasets.held_out
        lost = held_out.name(0)
        with open(lost, "wb") as file:
            file.write(b"no image")
        found = evaluation.evaluate(programs, state, datasets)
        assert found.unreadable == (lost,)
        assert found.counts["held_out_images"] == len(held_out) - 1
        assert found.counts["train_images"] == len(datasets.train)
        assert found.summary.endswith(f"; 1 image could not be read: {lost}")
        fatal = Programs(
            tiny(data=str(folder), size=8, batch=8, unreadable="fatal"),
            programs.mesh,
            steps_per_epoch=1,
        )
        with pytest.raises(UnreadableError, match="cannot read"):
            evaluation.evaluate(fatal, state, datasets)
        with pytest.raises(UnreadableError, match="cannot read"):
            images = np.zeros((2, 8, 16), np.float32)
            evaluation.quick_check(fatal, state, datasets, images)

    @pytest.mark.slow
    def test_probes_of_other_images_have_a_file_of_their_own(self, run, tmp_path):
        folder = twice(tmp_path / "other")
        before = sorted(run.iterdir())
        probed = probe(run, data=str(folder))
        (new,) = set(run.iterdir()) - set(before)
        assert probed.file == new and new.name.endswith("other.json")
        assert "19 images and evaluated on 5" in probed.summary
        assert not (run / "probes.json").exists()  # it would mark the run as finished


class TestUntrained:
    def test_its_batch_norms_have_statistics_of_images(self):
        rng = np.random.default_rng(0)
        images = rng.integers(100, 160, (16, 8, 8, 1), np.uint8)
        programs = Programs(tiny(batch=16), make_mesh("data=1"), steps_per_epoch=1)
        source = Arrays(images, np.zeros(16, np.int32))
        state = frozen.untrained(programs, source)
        start = programs.start()
        model = programs.network(start)
        first = model.encoder.conv1(programs.config.views.plain(images, np.ones(16)))
        found = state.stats["encoder"]["bn1"]
        mean, var = np.mean(first, (0, 1, 2)), np.var(first, (0, 1, 2))
        np.testing.assert_allclose(found["mean"], mean, rtol=0.01, atol=1e-4)
        np.testing.assert_allclose(found["var"], var, rtol=0.01, atol=0.006)
        np.testing.assert_array_equal(state.step, start.step)
        np.testing.assert_array_equal(
            state.stats["expander"]["norm1"]["mean"],
            start.stats["expander"]["norm1"]["mean"],
        )

    def test_fewer_images_than_a_batch(self):
        images = np.zeros((3, 8, 8, 1), np.uint8)
        programs = Programs(tiny(), make_mesh("data=1"), steps_per_epoch=1)
        frozen.untrained(programs, Arrays(images, np.zeros(3, np.int32)))


def test_rows_of_processes_that_do_not_lie_side_by_side():
    """As on TPUs, whose mesh follows the wiring."""
    placed = [(1, range(0, 2)), (0, range(2, 4)), (1, range(4, 6)), (0, range(6, 8))]
    assert frozen.by_process(placed).tolist() == [2, 3, 6, 7, 0, 1, 4, 5]
    # Rows that two devices hold.
    assert frozen.by_process([(0, range(2)), (0, range(2))]).tolist() == [0, 1]
