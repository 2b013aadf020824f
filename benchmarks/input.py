"""The input section: how many images a second the host decodes and crops."""

from __future__ import annotations

import functools
import importlib
import io
import itertools
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import PIL.Image
import PIL.ImageFilter
import PIL.ImageOps

from benchmarks.options import Options
from benchmarks.results import Section, Sheet
from benchmarks.timing import Spread
from vicreg_jax import _pixels
from vicreg_jax.augment import ImageViews
from vicreg_jax.augment.crops import uniform
from vicreg_jax.decode import decode_crops
from vicreg_jax.pretrain.input import batches, folder

# ImageNet's training images have 110 KB and 469x387 pixels on average.
_SIZE, _QUALITY = (500, 375), 98
_PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "immunohistochemistry")
_BATCH = 32
_GOAL, _FAST_GOAL = 4.5, 3  # milliseconds of one core
BARE, TORCHVISION = "decode and two crops", "torchvision's chain, two views"
_OURS = "our host side, {} workers"


class Work(NamedTuple):
    """Seconds of some work for one image.

    Attributes:
        wall: Wall time.
        cpu: Processor time, in this process and its workers.
    """

    wall: float
    cpu: float


def run(options: Options, progress) -> Section:
    """Measures decoding, cropping, our host side and torchvision's chain by turns.

    Args:
        options: The parsed command line.
        progress: Called with a description of each part.
    """
    rounds, timed = (1, 1) if options.quick else (5, 24)
    with tempfile.TemporaryDirectory() as root:
        files = write_photographs(Path(root), images=_BATCH)
        content = [file.read_bytes() for file in files]
        works: dict[str, list[Work]] = {}
        cases = _cases(Path(root), content, timed)
        for _, (name, case) in itertools.product(range(rounds), cases.items()):
            progress(f"input: {name}")
            works.setdefault(name, []).append(case())
        kilobytes = sum(file.stat().st_size for file in files) / len(files) / 1000
    records = [
        {"what": name}
        | {
            field: Spread.of([getattr(work, field) for work in found])._asdict()
            for field in Work._fields
        }
        | {"ratio": _ratio(works, name)._asdict(), "kilobytes": kilobytes}
        for name, found in works.items()
    ]
    return Section("input", records, [_sheet(records, kilobytes)])


def write_photographs(root: Path, images: int) -> list[Path]:
    """Writes JPEGs of about 110 KB with 500x375 pixels, of scikit-image's photographs.

    Args:
        root: The folder to write them to.
        images: How many; they repeat.
    """
    encoded = []
    for name in _PHOTOGRAPHS:
        pixels = getattr(importlib.import_module("skimage.data"), name)()
        photograph = PIL.ImageOps.fit(PIL.Image.fromarray(pixels), _SIZE)
        file = io.BytesIO()
        photograph.save(file, "JPEG", quality=_QUALITY)
        encoded.append(file.getvalue())
    paths = [root / f"{number:04d}.jpg" for number in range(images)]
    for path, content in zip(paths, itertools.cycle(encoded)):  # noqa: B905
        path.write_bytes(content)
    return paths


def _cases(root: Path, content: list[bytes], timed: int):
    cases: dict[str, Callable[[], Work]] = {
        "decode, Pillow": lambda: _each(content, _decode),
        f"{BARE}, Pillow": lambda: _with_pillow(content),
    }
    if _pixels.cykooz_resizer and _pixels.simplejpeg:
        fast = _pixels.simplejpeg.decode_jpeg
        cases["decode, simplejpeg"] = lambda: _each(content, fast)
    cases[BARE] = lambda: _each(content, Crop())
    for workers in (0, 1, 2):
        cases[_OURS.format(workers)] = functools.partial(_host, root, workers, timed)
    if transforms := _transforms():
        cases[TORCHVISION] = functools.partial(_each, content, _torchvision(transforms))
    return cases


class Crop:
    """Decodes and cuts the two crops of the paper's recipe, for one image a call."""

    def __init__(self):
        self._croppings = ImageViews().crops
        # Drawn once, as the draw belongs to neither decoding nor cropping.
        drawn = uniform(0, 0, range(_BATCH), count=2)
        self._numbers = itertools.cycle(drawn)

    def __call__(self, content: bytes) -> Any:
        """Returns the crops of an encoded image."""
        numbers = [next(self._numbers)]
        return decode_crops(content, self._croppings, numbers, channels=3)


def _each(content: list[bytes], process: Callable[[bytes], Any]) -> Work:
    wall, cpu = time.perf_counter(), time.process_time()
    for encoded in content:
        process(encoded)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Work(wall / len(content), cpu / len(content))


def _workers_time() -> float:
    """Returns the processor's seconds of all worker processes; 0 except on Linux."""
    ticks = 0
    for worker in multiprocessing.active_children():
        try:
            stat = Path(f"/proc/{worker.pid}/stat").read_text()
        except OSError:
            continue
        # See proc(5); the name in parentheses may contain spaces.
        user, system = stat.rpartition(")")[2].split()[11:13]
        ticks += int(user) + int(system)
    return ticks / os.sysconf("SC_CLK_TCK")


def _decode(encoded: bytes) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(encoded)).convert("RGB")


def _with_pillow(content: list[bytes]) -> Work:
    with _pillow_alone():
        return _each(content, Crop())


@contextmanager
def _pillow_alone() -> Iterator[None]:
    names = "simplejpeg", "cykooz_resizer"
    installed = {name: getattr(_pixels, name) for name in names}
    for name in names:
        # `_pixels` looks at both names in each call.
        setattr(_pixels, name, None)
    try:
        yield
    finally:
        for name, module in installed.items():
            setattr(_pixels, name, module)


def _host(root: Path, workers: int, timed: int) -> Work:
    """Times the batches of a run, one thread in each process."""
    reading = batches(
        folder(root, size=256),
        batch=_BATCH,
        crops=ImageViews().crops,
        workers=workers,
        threads=1,
    )
    ahead = 2 * workers + 1  # batches that the workers may have read already
    next(reading)
    # From full buffers to full buffers, so that the workers have read what is counted.
    began = _settled()
    for _ in range(ahead):
        next(reading)
    wall = time.perf_counter()
    for _ in range(timed):
        next(reading)
    wall = time.perf_counter() - wall
    cpu = _settled() - began
    reading.close()
    return Work(wall / (timed * _BATCH), cpu / ((ahead + timed) * _BATCH))


def _settled() -> float:
    """Returns the processor's seconds of all processes, once the workers are idle."""
    used = _workers_time()
    while multiprocessing.active_children():
        time.sleep(0.5)
        before, used = used, _workers_time()
        # The kernel counts in ticks, of which there are many in half a second of work.
        if used == before:
            break
    return time.process_time() + used


def _transforms() -> Any:
    """Returns torchvision's transforms, or None where they do not load.

    The compiled part of torchvision does not load with a PyTorch it was not built for.
    """
    try:
        return importlib.import_module("torchvision.transforms")
    except (ImportError, RuntimeError):
        return None


def _torchvision(transforms: Any) -> Callable[[bytes], Any]:
    """Returns the two views of the official code's augmentations.py, in our words."""
    bicubic = transforms.InterpolationMode.BICUBIC

    def view(blur: float, solarize: float):
        jitter = transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)
        return transforms.Compose(
            [
                # torchvision's default scale is that of the paper, 0.08 to 1.
                transforms.RandomResizedCrop(224, interpolation=bicubic),
                transforms.RandomHorizontalFlip(),
                transforms.RandomApply([jitter], p=0.8),
                transforms.RandomGrayscale(p=0.2),
                transforms.RandomApply([_blurred], p=blur),
                transforms.RandomSolarize(128, p=solarize),
                transforms.ToTensor(),
                transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    # As in BYOL: the official code treats the views differently, unlike the paper.
    views = view(1.0, 0.0), view(0.1, 0.2)

    def pair(encoded: bytes):
        image = _decode(encoded)
        return [view(image) for view in views]

    return pair


def _blurred(image: PIL.Image.Image) -> PIL.Image.Image:
    # Pillow's blur, as in the official code.
    return image.filter(PIL.ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


def _ratio(works: dict[str, list[Work]], name: str) -> Spread:
    """Returns the processor's time over that of the bare function in the same round.

    Unlike the wall time, it hardly depends on what else runs on the machine.
    """
    pairs = zip(works[name], works[BARE], strict=True)
    return Spread.of([work.cpu / bare.cpu for work, bare in pairs])


def _sheet(records: list[dict], kilobytes: float) -> Sheet:
    rows = []
    for record in records:
        wall, cpu = record["wall"], record["cpu"]
        rows.append(
            [
                record["what"],
                "{:.2f} ({:.2f}-{:.2f})".format(
                    *(1000 * wall[key] for key in ("median", "low", "high"))
                ),
                f"{1 / wall['median']:.0f}",
                f"{1000 * cpu['median']:.2f}",
                "{median:.2f} ({low:.2f}-{high:.2f})".format(**record["ratio"]),
            ]
        )
    return Sheet(
        f"Host side: JPEGs of {kilobytes:.0f} KB, 500x375, two crops to 224",
        ["what", "ms an image", "images/s", "CPU ms", f"times {BARE}"],
        rows,
        _notes({record["what"]: record for record in records}),
    )


def _notes(records: dict[str, dict]) -> list[str]:
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    notes = [
        f"medians and quartiles; one thread in each process; load {load}",
        f"{BARE}: as installed; CPU: of all processes, and the ratio is of it",
    ]
    if not (_pixels.cykooz_resizer and _pixels.simplejpeg):
        notes.append("fast-input: not installed: `pip install vicreg_jax[fast-input]`")
    if TORCHVISION not in records:
        notes.append("torchvision: not installed for this PyTorch")
    ours = [records[_OURS.format(workers)] for workers in range(3)]
    overhead = max(record["ratio"]["median"] for record in ours) - 1
    gain = ours[1]["wall"]["median"] / ours[2]["wall"]["median"]
    limit = _FAST_GOAL if _pixels.cykooz_resizer else _GOAL
    cpu = 1000 * ours[0]["cpu"]["median"]
    for what, value, met in (
        (f"our host side at most {limit} ms", f"{cpu:.2f} ms", cpu <= limit),
        ("overhead at most 10%", f"{overhead:.0%}", overhead <= 0.1),
        ("2 workers at least 1.8 times 1", f"{gain:.2f}", gain >= 1.8),
    ):
        notes.append(f"goal: {what}: {value}: {'met' if met else 'NOT MET'}")
    return notes
