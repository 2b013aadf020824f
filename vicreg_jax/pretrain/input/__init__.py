"""The input of a run: reading images, their order, and batches on the devices.

    train, held_out = split(open_source("photographs/", size=256))
    rows = batches(
        train, batch=2048, seed=0, crops=views.crops, shard=ShardByJaxProcess()
    )
    for batch in to_device(rows, sharding): ...

With `crops`, the host cuts the random crops of image files from their original pixels
and resizes them. `Batch.images` holds the crops and their boxes; `ImageViews` flips
them and changes their colors on the device. The boxes are drawn by seed, step and row,
so they are the same for any number of hosts and worker processes.

Without `crops`, and for arrays in memory, whole images are read. Files become squares
of `size` pixels a side, and `ImageViews` crops on the device. `Batch.aspect` is the
aspect ratio of the original, and `ImageViews` crops as if the image still had it. The
cost is detail finer than `size`. The smallest crop of the paper's recipe, 8% of the
area, has 72 pixels a side at size 256, but 122 in a photograph of 500x375.
"""

from vicreg_jax.decode import UnreadableError
from vicreg_jax.pretrain.input.array_records import Records, pack
from vicreg_jax.pretrain.input.batches import Batches, batches
from vicreg_jax.pretrain.input.datasets import (
    Datasets,
    load_datasets,
    open_source,
    sample,
)
from vicreg_jax.pretrain.input.device import DeviceBatches, to_device
from vicreg_jax.pretrain.input.files import folder
from vicreg_jax.pretrain.input.order import Order, order_hash
from vicreg_jax.pretrain.input.read_step import Batch
from vicreg_jax.pretrain.input.sources import Arrays, Source, Subset, split
from vicreg_jax.pretrain.input.survey import survey

__all__ = [
    "Arrays",
    "Batch",
    "Batches",
    "Datasets",
    "DeviceBatches",
    "Order",
    "Records",
    "Source",
    "Subset",
    "UnreadableError",
    "batches",
    "folder",
    "load_datasets",
    "open_source",
    "order_hash",
    "pack",
    "sample",
    "split",
    "survey",
    "to_device",
]
