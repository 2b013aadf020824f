"""Features of any images, by the encoder of a run or of a file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import jax
import numpy as np

from vicreg_jax.encoder import load_encoder
from vicreg_jax.pretrain.contact_sheet import Queries, contact_sheet
from vicreg_jax.pretrain.errors import UsageError, of_file
from vicreg_jax.pretrain.evaluation import unreadable_summary
from vicreg_jax.pretrain.export import as_encoder, newest
from vicreg_jax.pretrain.input import UnreadableError, batches, open_source
from vicreg_jax.pretrain.input.batches import IN_ORDER
from vicreg_jax.pretrain.input.files import Files
from vicreg_jax.pretrain.input.sources import UNLABELED
from vicreg_jax.pretrain.run_folder import writing

if TYPE_CHECKING:
    from jaxtyping import Float32, Int32, Int64

    from vicreg_jax.encoder import Encoder
    from vicreg_jax.pretrain.input import Source


class Embedded(NamedTuple):
    """The features of the readable images of a source.

    Attributes:
        features: Shape ``(images, width of the encoder)``.
        labels: The class of each image; -1 for none.
        ids: The index of each image in the source.
        unreadable: Names of the images that could not be read.
    """

    features: Float32[np.ndarray, "images width"]
    labels: Int32[np.ndarray, " images"]
    ids: Int64[np.ndarray, " images"]
    unreadable: tuple[str, ...]


def embed(
    path: Path,
    data: str,
    out: Path,
    *,
    neighbors: int = 0,
    queries: Sequence[Path] | None = None,
    unreadable: Literal["skip", "fatal"] = "skip",
) -> list[str]:
    """Writes the features of images to a file, and draws their nearest neighbors.

    Args:
        path: A run, whose newest checkpoint is used, or a file of an encoder.
        data: The images, as `open_source` names them.
        out: The .npz file for ``features``, ``names``, ``labels`` and ``classes``.
        neighbors: Number of neighbors in the picture beside `out`. 0: no picture.
        queries: Image files whose neighbors are drawn. None: images of `data`.
        unreadable: Whether to skip unreadable images, or raise at the first.

    Returns:
        What was done, to print.

    Raises:
        UsageError: If an argument is not what the command line asks for, or a query is
            unreadable.
        UnreadableError: If an image is unreadable and `unreadable` is "fatal".
        OSError: If a file cannot be written.
    """
    # Before the images are embedded, which may take long.
    _check_out(out)
    if queries is not None and not (queries and neighbors):
        raise UsageError(
            "--query must name image files and be given with --neighbors, such as "
            f"--neighbors 8, got {len(queries)} files and --neighbors {neighbors}"
        )
    encoder = open_encoder(path)
    source = open_source(data, size=encoder.size, channels=encoder.channels)
    if not 0 <= neighbors < len(source):
        raise UsageError(
            f"--neighbors must be from 0 to {len(source) - 1}, one less than the "
            f"number of images, got {neighbors}"
        )
    # Before the images, so that an unreadable query is refused at once.
    chosen = None if queries is None else _embedded(queries, encoder)
    found = features(encoder, source, unreadable=unreadable)
    _write(out, found, source)
    step = encoder.about.get("step")
    at = "" if step is None else f" at step {step}"
    lines = [
        f"Embedded {len(found.ids)} images of {data} with {path}{at}: "
        f"{found.features.shape[1]} features each, in {out}"
    ]
    if found.unreadable:
        lines.append(unreadable_summary(found.unreadable))
    if neighbors:
        picture = out.with_suffix(".png")
        chosen = None if chosen is None else _located(chosen, source, found.ids)
        sheet = contact_sheet(found.features, found.ids, source, neighbors, chosen)
        with writing(picture):
            sheet.savefig(picture)
        lines.append(f"Nearest neighbors by cosine are in {picture}")
    return lines


def features(
    encoder: Encoder,
    source: Source,
    *,
    batch: int = 256,
    unreadable: Literal["skip", "fatal"] = "skip",
) -> Embedded:
    """Returns the features of the readable images, in the order of the source.

    Args:
        encoder: The encoder with its preprocessing.
        source: Images of the encoder's size and channels.
        batch: Number of images that pass the network at once.
        unreadable: Whether to skip unreadable images, or raise at the first.

    Raises:
        UsageError: If the images have another shape, or none of them is readable.
        UnreadableError: If an image is unreadable and `unreadable` is "fatal".
    """
    expected = (encoder.size, encoder.size, encoder.channels)
    # Images in memory keep their own size and channels, whatever was asked for.
    if source.shape != expected:
        raise UsageError(
            f"--data must hold images of the encoder's shape, {expected}, got "
            f"{source.shape}"
        )
    rows = batches(
        source,
        batch=batch,
        crops=encoder.plain_crops,
        unreadable=unreadable,
        **IN_ORDER,
    )
    parts = []
    for one in rows:
        # A batch may hold padding and unreadable images alone.
        if one.where.any():
            readable = jax.tree.map(lambda rows, where=one.where: rows[where], one)
            whole = not isinstance(readable.images, tuple)
            # Crops are of the original pixels, whose aspect ratio they have kept.
            embedded = encoder.embed(
                readable.images, aspect=readable.aspect if whole else None, batch=batch
            )
            parts.append((embedded, readable.labels, readable.ids))
    if not parts:
        raise UsageError(
            f"--data must hold readable images; {unreadable_summary(rows.unreadable)}"
        )
    joined = map(np.concatenate, zip(*parts, strict=True))
    return Embedded(*joined, unreadable=tuple(sorted(rows.unreadable)))


def open_encoder(
    path: Path, mesh: str | None = "data=1", *, argument: str = "ENCODER"
) -> Encoder:
    """Returns the encoder of a run's newest checkpoint, or of a file.

    Args:
        path: The run or the file.
        mesh: Devices for the parameters of a run; see `mesh.axes`.
        argument: What the command line calls `path`, for errors.

    Raises:
        UsageError: If there is none.
    """
    if (path / "config.json").is_file():
        # Not the file in the run's directory, which may be of an older checkpoint.
        return as_encoder(*newest(path, mesh=mesh, argument=argument), path)
    if not path.exists():
        raise UsageError(f"{argument} must be a run or a file that exists, got {path}")
    try:
        return load_encoder(path)
    except ValueError as error:
        raise of_file(error, argument, path) from error


def _check_out(out: Path) -> None:
    if out.suffix != ".npz":
        raise UsageError(f"--out must end in .npz, got {out}")
    try:
        tempfile.TemporaryFile(dir=out.parent).close()
    except OSError as error:
        raise UsageError(
            f"--out must be in a directory that can be written, got {out}: "
            f"{error.strerror}"
        ) from error


def _embedded(paths: Sequence[Path], encoder: Encoder) -> Queries:
    """Returns query images, as if none of them were in the data."""
    labels = np.full(len(paths), UNLABELED, np.int32)
    names = tuple(map(os.path.abspath, paths))
    # The names are absolute, so the root has no effect.
    source = Files(Path(), names, labels, (), encoder.size, encoder.channels)
    try:
        found = features(encoder, source, unreadable="fatal")
    except UnreadableError as error:
        raise UsageError(f"--query: {error}") from error
    return Queries(found.features, np.full(len(paths), -1), source)


def _located(queries: Queries, source: Source, ids) -> Queries:
    """Returns the queries with their rows among the images, so that none finds itself.

    A file is the same if its path is.
    """
    # Not the indices of the images, because unreadable ones have no row.
    rows = {os.path.abspath(source.name(int(at))): row for row, at in enumerate(ids)}
    names = map(queries.source.name, range(len(queries.source)))
    return queries._replace(rows=np.array([rows.get(name, -1) for name in names]))


def _write(out: Path, found: Embedded, source: Source) -> None:
    with writing(out):
        np.savez(
            out,
            features=found.features,
            names=np.array([source.name(int(i)) for i in found.ids]),
            labels=found.labels,
            classes=np.array(source.classes, str),
        )
