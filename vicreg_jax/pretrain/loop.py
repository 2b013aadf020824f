"""The steps of a run: what is done at each, and what every few."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from vicreg_jax.pretrain import evaluation
from vicreg_jax.pretrain.input import Batches, DeviceBatches, order_hash
from vicreg_jax.pretrain.processes import Interrupted, Interruption, wait_for_all
from vicreg_jax.pretrain.records import Line, Log, summary

if TYPE_CHECKING:
    from rich.console import Console

    from vicreg_jax.pretrain.checkpoints import Checkpoints
    from vicreg_jax.pretrain.config import Launch
    from vicreg_jax.pretrain.input import Batch, Datasets
    from vicreg_jax.pretrain.step import Programs, State


@dataclass(frozen=True)
class Loop:
    """The steps of a run, from wherever it stands.

    Attributes:
        programs: what is computed.
        launch: how often to report and to save.
        datasets: for the quick checks.
        host: the batches in host memory.
        device: the same on the devices, one ahead.
        log: where metrics go.
        checkpoints: where states go.
        console: where the progress goes.
        started: when the run was, by `time.monotonic`.
    """

    programs: Programs
    launch: Launch
    datasets: Datasets
    host: Batches
    device: DeviceBatches
    log: Log
    checkpoints: Checkpoints
    console: Console
    started: float

    def run(self, state: State, first: int) -> State:
        """Returns the state after the last step.

        Args:
            state: given up.
            first: the step that comes next.

        Raises:
            FloatingPointError: the loss, a gradient or a parameter is not finite.
            Interrupted: as asked; the state is saved.
        """
        steps = self.programs.config.epochs * self.host.order.steps_per_epoch
        hash_row = self.host.order.rows.start
        with _Bar(self.console, first, steps) as show, Interruption() as interruption:
            train: Callable = self.programs.train
            for step in range(first, steps):
                batch = next(self.device)
                if step == first:
                    train = self._compiled(state, batch)
                state, metrics = train(state, batch.images, batch.aspect)
                # Nothing here waits for the step but what is done every few.
                self.log.add(step, metrics, order_hash(batch.ids, first_row=hash_row))
                done = step + 1
                stop = interruption.asked(done)
                if done % self.launch.log_every == 0:
                    show(done, self.log.write(leave=1))
                if self._check_is_due(done):
                    self._quick_check(state, batch, done)
                last = stop or done == steps
                if last or self.checkpoints.due(done):
                    show(done, self._save(state, done, wait=last))
                if stop and done < steps:
                    raise Interrupted(f"saved after step {done}")
        return state

    def _compiled(self, state, batch):
        """Returns one update, compiled in every process.

        So that none waits for another's compiler in an exchange between devices.
        """
        before = time.monotonic()
        train = self.programs.train.lower(state, batch.images, batch.aspect).compile()
        now = time.monotonic()
        self.console.print(
            f"First step {now - self.started:.1f} s after the start, of which "
            f"{now - before:.1f} s compiling it"
        )
        wait_for_all("compiled")
        return train

    def _save(self, state, done, *, wait) -> Line | None:
        """Saves a state that is known to be good."""
        line = self.log.write()
        if not _all_finite(state.params):
            raise FloatingPointError(
                f"a parameter is no longer finite after step {done - 1}; lower "
                "--learning-rate"
            )
        self.checkpoints.save(
            done, state, {"input": self.device.get_state()}, wait=wait
        )
        return line

    def _check_is_due(self, done: int) -> bool:
        every = self.launch.probe_every * self.host.order.steps_per_epoch
        return every > 0 and done % every == 0

    def _quick_check(self, state: State, batch: Batch, done: int) -> None:
        embeddings = self.programs.embed(state, batch.images, batch.aspect)
        check = evaluation.quick_check(
            self.programs, state, self.datasets, embeddings, workers=self.launch.workers
        )
        epoch = done // self.host.order.steps_per_epoch
        self.log.quick_check({"step": done, "epoch": epoch} | check)
        self.console.print(
            f"Epoch {epoch}: {evaluation.summary(check, *embeddings.shape)}"
        )
        if trouble := evaluation.warning(check):
            self.console.print(f"[bold red]Warning:[/] {trouble}")


class _Bar:
    """Shows how far a run is; called with the steps done and the last line."""

    def __init__(self, console: Console, first: int, steps: int):
        self._progress = Progress(
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[state]}"),
            console=console,
        )
        self._task = self._progress.add_task(
            "pretraining", completed=first, total=steps, state="compiling"
        )

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_) -> None:
        self._progress.stop()

    def __call__(self, done: int, line: Line | None) -> None:
        state: dict[str, Any] = {"state": summary(line)} if line else {}
        self._progress.update(self._task, completed=done, **state)


@jax.jit
def _all_finite(params):
    return jnp.all(jnp.stack([jnp.isfinite(p).all() for p in jax.tree.leaves(params)]))
