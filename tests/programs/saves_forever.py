"""Checks the checkpoints of the process before it, then saves until it is killed.

python tests/programs/saves_forever.py DIRECTORY
"""

import itertools
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from vicreg_jax.pretrain.checkpoints import Checkpoints


def state(step):
    rng = np.random.default_rng(step)
    shapes = [(4, 300), (7,), (), (300, 400)]
    return {str(s): jnp.asarray(rng.standard_normal(s), jnp.float32) for s in shapes}


def main():
    """Prints the restored step and the number of warnings, and then each save."""
    warnings = []
    checkpoints = Checkpoints(Path(sys.argv[1]), keep=2, warn=warnings.append)
    restored = checkpoints.restore(state(0))
    first = restored.step if restored else 0
    if restored:
        for name, want in state(first).items():
            got = np.asarray(restored.state[name])
            assert got.tobytes() == np.asarray(want).tobytes()
    print(first, len(warnings), flush=True)
    for step in itertools.count(first + 1):
        checkpoints.save(step, state(step))
        print("saving", flush=True)
        if step % 3 == 0:
            checkpoints.wait()


if __name__ == "__main__":
    main()
