"""The input of a run: where images come from, in which order, and onto the devices.

    source = open_source("photographs/", size=256)
    train, held_out = split(source, held_out=0.2, seed=0)
    rows = batches(train, batch=2048, seed=0, shard=grain.sharding.ShardByJaxProcess())
    for batch in to_device(rows, sharding): ...

Host workers decode every image, whole, to one fixed size; random crops happen on the
device. So a batch has one shape, the two views share one decoding and one transfer of
``size * size * channels`` bytes an image, and the sides of wide images are not lost.
The price: detail finer than `size` is. The smallest crop of the paper's recipe (8% of
the area) has 72 pixels a side at size 256, where a photograph of 500x375 has 122; raise
`size` to 384 (108 pixels, 2.25 times the bytes) where hosts and links have room.
The pixels are squeezed to a square: `Batch.aspect` is what they were, and `ImageViews`
crops by it as if they still were.
"""

from vicreg_jax.pretrain.input.batches import Batches as Batches
from vicreg_jax.pretrain.input.batches import batches as batches
from vicreg_jax.pretrain.input.datasets import Datasets as Datasets
from vicreg_jax.pretrain.input.datasets import load_datasets as load_datasets
from vicreg_jax.pretrain.input.datasets import open_source as open_source
from vicreg_jax.pretrain.input.datasets import sample as sample
from vicreg_jax.pretrain.input.decode import UnreadableError as UnreadableError
from vicreg_jax.pretrain.input.device import DeviceBatches as DeviceBatches
from vicreg_jax.pretrain.input.device import to_device as to_device
from vicreg_jax.pretrain.input.files import Files as Files
from vicreg_jax.pretrain.input.files import folder as folder
from vicreg_jax.pretrain.input.load import Batch as Batch
from vicreg_jax.pretrain.input.order import Order as Order
from vicreg_jax.pretrain.input.order import order_hash as order_hash
from vicreg_jax.pretrain.input.sources import Arrays as Arrays
from vicreg_jax.pretrain.input.sources import Sample as Sample
from vicreg_jax.pretrain.input.sources import Source as Source
from vicreg_jax.pretrain.input.sources import Subset as Subset
from vicreg_jax.pretrain.input.sources import split as split
from vicreg_jax.pretrain.input.tfrecords import Records as Records
from vicreg_jax.pretrain.input.tfrecords import pack as pack
