"""The training loop: what happens at each step, and what every few steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from vicreg_jax.pretrain import evaluation
from vicreg_jax.pretrain.input import DeviceBatches, order_hash
from vicreg_jax.pretrain.printing import print_line
from vicreg_jax.pretrain.processes import Interrupted, Interruption, wait_for_all
from vicreg_jax.pretrain.records import Line, Log, summary
from vicreg_jax.pretrain.speed import step_flops

if TYPE_CHECKING:
    from rich.console import Console

    from vicreg_jax.pretrain.checkpoints import Checkpoints
    from vicreg_jax.pretrain.config import Launch
    from vicreg_jax.pretrain.input import Batch, Datasets
    from vicreg_jax.pretrain.profile import Profile
    from vicreg_jax.pretrain.step import Programs, State

    # Takes the number of steps done, and the last line of metrics if it is new. The
    # first call is right before the first step, when all is compiled.
    Show = Callable[[int, Line | None], None]


@dataclass(frozen=True)
class Loop:
    """The training loop of a run.

    Attributes:
        programs: The compiled programs.
        launch: How often to log, to check and to save.
        datasets: Images for the quick checks.
        train_iterator: Training batches on the devices.
        console: Where to print.
        started: When the run started, by `time.monotonic`.
        profiled: The steps to trace.
    """

    programs: Programs
    launch: Launch
    datasets: Datasets
    train_iterator: DeviceBatches
    console: Console
    started: float
    profiled: range

    @property
    def steps(self) -> int:
        """Number of steps of the whole run."""
        return self.programs.config.epochs * self.programs.steps_per_epoch

    def run(
        self,
        state: State,
        first: int,
        checkpoints: Checkpoints,
        log: Log,
        profile: Profile,
    ) -> State:
        """Returns the state after the last step.

        The arrays of `state` are donated. `first` is the next step, which
        `train_iterator` also stands at.

        Raises:
            FloatingPointError: If the loss, a gradient or a parameter is not finite.
            Interrupted: If it was asked to stop. The state has been saved.
        """
        steps = self.steps
        save_every = self.launch.checkpoint_every or _whole_epochs(
            self.programs.steps_per_epoch
        )
        hash_row = self.train_iterator.order.rows.start
        self.console.print("Compiling the first step")
        bar = self.console.is_terminal or self.console.is_jupyter
        shown = (_bar if bar else _lines)(self.console, first, steps)
        with shown as show, Interruption() as interruption:
            train: Callable = self.programs.train
            for step in range(first, steps):
                batch = next(self.train_iterator)
                if step == first:
                    train = self._compile(state, batch, checkpoints, log)
                    show(first, None)
                with profile(step, state):
                    state, metrics = train(state, *self.programs.inputs(batch))
                # The host waits for the devices only in what is done every few steps.
                log.add(step, metrics, order_hash(batch.ids, first_row=hash_row))
                done = step + 1
                # In every step: JAX agrees on the step to stop at by these calls.
                stop = interruption.asked(done)
                if done % self.launch.log_every == 0:
                    # All but the newest step, for which the host would have to wait.
                    show(done, log.write(leave=1))
                last = stop or done == steps
                saves = last or done % save_every == 0
                if saves:
                    # A loss that is not finite must be an error before it is saved.
                    show(done, log.write())
                # Before the checkpoint, because a run that resumes from it does not
                # repeat this check.
                if self._check_is_due(done):
                    self._quick_check(state, batch, done, log)
                if saves:
                    checkpoints.save(done, state, wait=last)
                # After the last step there is no training to resume.
                if stop and done < steps:
                    raise Interrupted(f"saved after step {done}")
        return state

    def _compile(self, state: State, batch: Batch, checkpoints: Checkpoints, log: Log):
        """Returns the compiled train step, and tells the log how much it computes.

        Every process waits until all have compiled it. In the first exchange between
        devices it would not wait long enough.
        """
        began = time.monotonic()
        arguments = state, *self.programs.inputs(batch)
        # The first checkpoint and the first quick check would otherwise stop the
        # training to compile. `jit` finds what is compiled here.
        beside: list[Callable] = [partial(checkpoints.compile_for, state)]
        if self.launch.probe_every:
            beside.append(self._check_program.lower(*arguments).compile)
        with ThreadPoolExecutor(len(beside)) as pool:
            compiling = [pool.submit(compile) for compile in beside]
            train = self.programs.train.lower(*arguments).compile()
            for future in compiling:
                future.result()
        log.speed.flops = step_flops(self.programs, train, *arguments)
        now = time.monotonic()
        print_line(
            self.console,
            f"First step {now - self.started:.1f} s after the start, of which "
            f"{now - began:.1f} s compiling it",
        )
        wait_for_all("compiled")
        return train

    @property
    def _check_program(self):
        """The program of a quick check that takes what the training step takes."""
        return self.programs.embed

    def _check_is_due(self, done: int) -> bool:
        every = self.launch.probe_every * self.programs.steps_per_epoch
        return every > 0 and done % every == 0

    def _quick_check(self, state: State, batch: Batch, done: int, log: Log) -> None:
        embeddings = self.programs.embed(state, batch.images, batch.aspect)
        check = evaluation.quick_check(
            self.programs, state, self.datasets, embeddings, workers=self.launch.workers
        )
        epoch = done // self.programs.steps_per_epoch
        log.quick_check({"step": done, "epoch": epoch} | check)
        print_line(
            self.console,
            f"Epoch {epoch}: {evaluation.summary(check, *embeddings.shape[1:])}",
        )
        if trouble := evaluation.warning(check):
            line = Text.assemble(("Warning:", "bold red"), f" {trouble}")
            print_line(self.console, line)


@contextmanager
def _bar(console: Console, first: int, steps: int) -> Iterator[Show]:
    """Draws a progress bar."""
    progress = Progress(
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[state]}"),
        console=console,
    )
    task = progress.add_task(
        "pretraining", completed=first, total=steps, state="compiling"
    )

    def show(done: int, line: Line | None) -> None:
        state: dict[str, Any] = {"state": summary(line)} if line else {}
        progress.update(task, completed=done, **state)

    with progress:
        yield show


@contextmanager
def _lines(console: Console, first: int, steps: int) -> Iterator[Show]:
    """Prints lines of any width, where there is no terminal to draw a bar in."""
    began = None

    def show(done: int, line: Line | None) -> None:
        nonlocal began
        # In the first call, so that compiling does not lengthen the estimate.
        began = began or time.monotonic()
        if line is None:
            return
        each = (time.monotonic() - began) / (done - first)
        left = round(each * (steps - done))
        # The devices may still compute the newest step, so the line is of an older one.
        # It needs no flush, because rich flushes after each call.
        print_line(
            console,
            f"step {line['step'] + 1} of {steps}, epoch {line['epoch'] + 1}, "
            f"{summary(line)}, {left // 60}:{left % 60:02d} left",
        )

    yield show


def _whole_epochs(steps_per_epoch: int) -> int:
    """Returns the steps between checkpoints: one epoch, or several short ones.

    A checkpoint of the mnist recipe takes as long as ten steps, measured on two cores
    (2026-11-25), so one in 300 steps costs 3%.
    """
    return steps_per_epoch * math.ceil(300 / steps_per_epoch)
