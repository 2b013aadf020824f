"""The tasks of all sections: listing, choosing and running them."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterable
from dataclasses import replace
from fnmatch import fnmatchcase

from parity import (
    classifiers,
    ddp,
    devices,
    experiments,
    local,
    reproducibility,
    values,
)
from parity.cases import Level
from parity.checks import NotRun, Outcome, Task
from parity.ours import Ours

SECTIONS = {
    "values": values.tasks,
    "devices": devices.tasks,
    "local": local.tasks,
    "ddp": ddp.tasks,
    "training": experiments.training_tasks,
    "pretraining": experiments.pretraining_tasks,
    "classifiers": classifiers.tasks,
    "reproducibility": reproducibility.tasks,
}


def tasks(level: Level, ours: Ours, platform: str = "cpu") -> list[Task]:
    """Returns every task of a level, section by section."""
    return [
        task for section in SECTIONS.values() for task in section(level, ours, platform)
    ]


def chosen(found: Iterable[Task], pattern: str) -> list[Task]:
    """Returns the tasks whose whole name matches a shell pattern."""
    return [task for task in found if fnmatchcase(task.name, pattern)]


def run(task: Task) -> Outcome:
    """Runs a task and returns its outcome, also if it raises an error."""
    start = time.perf_counter()
    try:
        found = Outcome(task.name, checks=tuple(task.run()))
    except NotRun as reason:
        found = Outcome(task.name, not_run=str(reason))
    except Exception:  # one broken task must not stop the suite
        found = Outcome(task.name, error=traceback.format_exc())
    return replace(found, seconds=time.perf_counter() - start)
