"""One of two processes that save and restore together, with four devices each.

python tests/programs/one_of_two.py ADDRESS DIRECTORY PROCESS
"""

import sys
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vicreg_jax.pretrain import processes
from vicreg_jax.pretrain.checkpoints import Checkpoints


def place(x, *spec):
    """Returns an array on the devices of both processes, each with its own `x`."""
    sharding = NamedSharding(jax.make_mesh((8,), ("data",)), P(*spec))
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def state(step):
    x = np.random.default_rng(step).standard_normal((8, 6)).astype(np.float32)
    return {"rows": place(x, "data"), "all": place(x)}


def saves(checkpoints, process):
    """Saves steps 1 and 2, and prints why a state that differs is refused."""
    for step in (1, 2):
        checkpoints.save(step, state(step))
    differs = place(np.full((8, 6), process, np.float32))
    try:
        checkpoints.save(3, state(3) | {"all": differs})
    except ValueError as error:
        print(error)


def restores(checkpoints, directory, process, warnings):
    """Restores step 2, and step 1 whenever a file of step 2 is missing."""
    restored = checkpoints.restore(state(0))
    assert restored.step == 2 and not warnings
    for name, want in state(2).items():
        assert (restored.state[name] == want).all()
    for harm in ("manifest/metadata", "state/manifest.ocdbt"):
        if process == 0:
            (directory / "00000002" / harm).unlink()
        restored = checkpoints.restore(state(0))
        assert restored.step == 1 and len(warnings) == 1, warnings
        warnings.clear()
        checkpoints.save(2, state(2), wait=True)
    assert checkpoints.restore(state(0)).step == 2 and not warnings


def shown_in_both(process):
    """Prints errors that one process raises alone, or that two differ in."""
    done = []
    processes.in_first(lambda: done.append(process), "works")
    assert done == [0] * (process == 0)
    # Twice, as a process may have several runs.
    for _ in range(2):
        try:
            processes.in_first(lambda: open("/nothing/here"), "fails")
        except Exception as error:
            print(f"{type(error).__name__} in process {process}")
    print("union", sorted(processes.union({f"{process}", "both"})))


def main():
    """Joins the other process, saves and restores."""
    address, directory, process = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    jax.config.update("jax_num_cpu_devices", 4)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, num_processes=2, process_id=process)
    shown_in_both(process)
    warnings = []
    with Checkpoints(directory, warn=warnings.append) as checkpoints:
        saves(checkpoints, process)
        restores(checkpoints, directory, process, warnings)
    print("whole")


if __name__ == "__main__":
    main()
