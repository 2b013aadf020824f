"""A trace of a few steps, for XProf and TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import jax

from vicreg_jax.pretrain.run_folder import writing

if TYPE_CHECKING:
    from vicreg_jax.pretrain.step import State


class Profile:
    """Traces some steps of a run. It ends with its context at the latest.

    The first process traces what it and its devices do. The others do the same.

    Args:
        chosen: The steps to trace.
        directory: Where to write the trace.
    """

    def __init__(self, chosen: range, directory: Path):
        self._chosen = chosen if jax.process_index() == 0 else range(0)
        self._directory = directory
        self._tracing = False

    def __enter__(self) -> Profile:
        return self

    def __exit__(self, *_) -> None:
        self._trace(on=False)

    def __call__(self, step: int, state: State) -> jax.profiler.StepTraceAnnotation:
        """Starts or ends the trace before a step.

        It returns a context for the step, by which the trace has its number.
        """
        if (step in self._chosen) != self._tracing:
            # Devices lag behind the host. No work of earlier steps is in the trace, and
            # all work of its own steps is.
            jax.block_until_ready(state)
            self._trace(on=not self._tracing)
        return jax.profiler.StepTraceAnnotation("train", step_num=step)

    def _trace(self, *, on: bool) -> None:
        if on == self._tracing:
            return
        self._tracing = on
        with writing(self._directory):
            if on:
                jax.profiler.start_trace(self._directory)
            else:
                jax.profiler.stop_trace()
