"""The process that `startup` starts: measures tracing and compilation of the loss."""

from __future__ import annotations

import json
import sys
import time


def main(name: str, n: str, d: str) -> None:
    """Prints, as JSON, the seconds to trace and to compile value and gradient."""
    import jax

    from benchmarks import jax_side

    loss = {"ours": jax_side.ours, "plain JAX": jax_side.plain}[name]
    z = jax.ShapeDtypeStruct((int(n), int(d)), "float32")
    # The first program of a process includes the start of XLA.
    jax.jit(lambda x: x @ x.T).lower(z).compile()
    started = time.perf_counter()
    lowered = jax.jit(jax_side.with_gradient(loss)).lower(z, z)
    traced = time.perf_counter()
    lowered.compile()
    done = time.perf_counter()
    print(json.dumps({"trace": traced - started, "compile": done - traced}))


if __name__ == "__main__":
    main(*sys.argv[1:])
