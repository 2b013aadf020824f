"""The process that `memory` starts: measures one contender at one size."""

from __future__ import annotations

import json
import os
import sys

from benchmarks import peak
from benchmarks.contenders import contenders
from benchmarks.place import NotAvailable, Place
from benchmarks.sizes import Problem, Size


def main(name: str, n: str, d: str, dtype: str) -> None:
    """Prints, as JSON, the peak beyond inputs and, for JAX, the planned temporaries."""
    problem = Problem(Size(int(n), int(d)), dtype)
    contender = next(c for c in contenders() if c.name == name)
    found: dict[str, object] = {}
    try:
        call = contender.build(problem, Place("cpu", "cpu"))
    except (NotAvailable, ModuleNotFoundError) as error:
        found["missing"] = str(error)
    else:
        if "torch" in sys.modules:
            import torch

            torch.set_num_threads(int(os.environ["NPROC"]))
        # The first call also starts threads and allocates the libraries' own buffers.
        call()
        _, found["peak"] = peak.of(call)
        if "torch" not in sys.modules:
            from benchmarks import jax_side

            found["temporaries"] = jax_side.temporaries(name, problem)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
