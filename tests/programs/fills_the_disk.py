"""Saves more than there is room for, and then what there is room for.

python tests/programs/fills_the_disk.py DIRECTORY limit|disk
"""

import resource
import sys
from pathlib import Path

import jax

from vicreg_jax.pretrain.checkpoints import Checkpoints


def main():
    """Limits the size of files if told to, and prints the errors."""
    directory, how = Path(sys.argv[1]), sys.argv[2]
    small = {"x": jax.random.normal(jax.random.key(0), (1000,))}
    large = {"x": jax.random.normal(jax.random.key(0), (1_000_000,))}
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(1, small, wait=True)
        if how == "limit":
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        before = sorted(directory.rglob("*"))
        for wait in (True, False):
            try:
                checkpoints.save(2, large, wait=wait)
                checkpoints.save(3, small)
            except OSError as error:
                print(error)
        assert sorted(directory.rglob("*")) == before
        restored = checkpoints.restore(small)
        assert restored.step == 1 and (restored.state["x"] == small["x"]).all()
        checkpoints.save(3, small, wait=True)
        assert checkpoints.restore(small).step == 3


if __name__ == "__main__":
    main()
