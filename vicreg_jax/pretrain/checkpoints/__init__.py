"""Checkpoints of a run that no crash, full disk or flipped bit can falsify.

    with Checkpoints(run / "checkpoints", keep=3, every=1000) as checkpoints:
        restored = checkpoints.restore(like=state)  # None in a new folder
        ...
        if checkpoints.due(step):
            checkpoints.save(step, state, extra={"input": position})

store: which checkpoints a folder holds, which of them are whole, which are pruned.
manifest: what a checkpoint must contain, itself under a checksum.
leaves: arrays and PRNG keys by name, as they lie in storage and in memory.
digest: one checksum of an array's bits, the same however the array is sharded.

Orbax writes the arrays: in the background, each process its own shards, under a name
that becomes the checkpoint's in one last step. It does not notice bits that changed
since. So what it gives back is compared with what was saved, value by value: a change
anywhere in a checkpoint's files is either one that no restored bit depends on, or one
that makes `restore` warn and take the checkpoint before.
"""

from vicreg_jax.pretrain.checkpoints.store import Checkpoints as Checkpoints
from vicreg_jax.pretrain.checkpoints.store import Restored as Restored
