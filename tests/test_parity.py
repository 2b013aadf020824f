"""The parity suite: it passes, each fault makes it fail, and it says so."""

import importlib.metadata
import io
import json
import math
import time
from dataclasses import replace
from itertools import product
from typing import get_args

import jax
import numpy as np
import pytest
from grids import thinned
from processes import completed
from rich.console import Console

pytest.importorskip("torch")

import torch

from parity import (
    classifiers,
    ddp,
    ddp_process,
    devices,
    experiments,
    picture,
    processes,
    report,
    reproducibility,
    suite,
    torch_networks,
    training_jax,
    training_torch,
    upstream,
    values,
)
from parity.__main__ import BROKEN, FAILED, PASSED, verdict
from parity.cases import DISTRIBUTIONS, UPSTREAMS, Case, Level, catalog
from parity.checks import Check, NotRun, Outcome, Task
from parity.classifier_faults import CLASSIFIER_FAULTS
from parity.comparison import compared, distances
from parity.faults import FAULTS
from parity.local_faults import LOCAL_FAULTS
from parity.options import FaultName, Options
from parity.ours import PACKAGE
from parity.roundings import Roundings

ON_ONE = [name for name, fault in FAULTS.items() if fault.section == "values"]
ON_MANY = [name for name, fault in FAULTS.items() if fault.section == "devices"]
IN_STEP = [name for name, fault in FAULTS.items() if fault.section == "pretraining"]
OPTIMIZERS, DTYPES = ("sgd", "adamw", "lars"), ("float64", "float32")
OF_LINEAR = {"backbone-in-train-mode", "undecayed-bias", "mean-over-padding"}
OF_FINETUNING = {"backbone-in-eval-mode", "one-rate"}
MAPPED = ("shard_map", "shard_map, inside, no vma", "pmap", "vmap")
PASSES = Check("values/a", "total", 1.0, 1.0, 1.0, 1e-7, 0.0, 0.0, 1e-6, size=6)
FAILS = replace(PASSES, ours=2.0, distance=1.0, dtype="float32")


def test_an_overflow_is_infinitely_far():
    """Or a median of distances would depend on their order."""
    assert PASSES.in_units(float("nan")) == math.inf
    assert PASSES.in_units(2e-7) == 2


def passed(checks):
    """Yields whether each check passed, as it is made: a fault needs one that fails."""
    return (check.passed for check in checks)


class TestFaults:
    """Each is caught in its own section, by a case that passes without it."""

    @pytest.mark.parametrize(
        "n, d, dtype",
        thinned(
            [
                (n, d, dtype)
                for n, d in [(24, 64), (64, 24)]
                for dtype in ("float64", "float32", "bfloat16", "float16")
            ],
            keep=[(24, 64, "float32"), (64, 24, "bfloat16")],
        ),
    )
    def test_on_one_device(self, n, d, dtype):
        case = Case("normal", n, d, dtype)
        assert all(passed(values.check_case("values/a", case, PACKAGE)))
        for name in ON_ONE:
            if dtype not in FAULTS[name].dtypes:
                continue
            faulty = values.check_case("values/a", case, FAULTS[name].ours)
            assert not all(passed(faulty)), name

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "distribution, n, d, names",
        [
            ("normal", 64, 64, ["tf32-products"]),
            ("normal", 257, 257, ["tf32-products", "bfloat16-products"]),
            ("scales", 64, 24, ["half-the-columns", "missing-variance-gradient"]),
            ("large", 64, 24, ["half-the-columns"]),
        ],
    )
    def test_where_the_bounds_are_wide(self, distribution, n, d, names):
        case = Case(distribution, n, d, "float32")
        assert all(passed(values.check_case("values/a", case, PACKAGE)))
        for name in names:
            faulty = values.check_case("values/a", case, FAULTS[name].ours)
            assert not all(passed(faulty)), name

    @pytest.mark.parametrize(
        "mode", thinned(MAPPED, keep=["shard_map, inside, no vma"])
    )
    def test_on_many_devices(self, mode):
        case = Case("normal", 16, 48)

        def checks(ours):
            return devices.check_mode("devices/a", mode, case, False, ours)

        assert all(passed(checks(PACKAGE)))
        for name in ON_MANY:
            assert not all(passed(checks(FAULTS[name].ours))), name

    @pytest.mark.slow
    @pytest.mark.parametrize("checked", [True, False])
    def test_beside_ddp(self, checked):
        def checks(ours):
            return ddp.check("ddp/a", 16, 48, checked, ours, "cpu")

        assert all(passed(checks(PACKAGE)))
        for name in ON_MANY:
            assert not all(passed(checks(FAULTS[name].ours))), name

    @pytest.mark.slow
    @pytest.mark.usefixtures("relaxed_promotion", "unchecked_signatures")
    @pytest.mark.parametrize(
        "optimizer, dtype",
        list(product(OPTIMIZERS, DTYPES)),
    )
    def test_in_training(self, optimizer, dtype):
        """Each optimizer meets each fault, half of them in each dtype."""
        experiment = experiments.expander(12, 4, 32, optimizer, dtype)
        assert all(passed(experiment.checks(PACKAGE)))
        at = OPTIMIZERS.index(optimizer) + DTYPES.index(dtype)
        for name in ON_ONE[at % 2 :: 2]:
            if dtype in FAULTS[name].dtypes:
                assert not all(passed(experiment.checks(FAULTS[name].ours))), name

    @pytest.mark.slow
    @pytest.mark.usefixtures("relaxed_promotion", "unchecked_signatures")
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_in_pretraining(self, dtype):
        experiment = experiments.resnet(18, 8, 16, 24, 64, dtype)
        checks = list(experiment.checks(PACKAGE))
        assert all(passed(checks))
        compared = {name for name, _ in experiment.model.named_parameters()}
        buffers = {name for name, _ in experiment.model.named_buffers()}
        compared |= {name for name in buffers if "running" in name}
        compared |= {"losses", "learning rates"}
        assert {check.quantity for check in checks} == compared
        for name in IN_STEP:
            assert not all(passed(experiment.checks(FAULTS[name].ours))), name

    @pytest.mark.slow
    @pytest.mark.usefixtures("relaxed_promotion", "unchecked_signatures", "x64")
    @pytest.mark.parametrize("name", classifiers.PROTOCOLS)
    def test_in_classifiers(self, name):
        experiment = classifiers.Experiment(classifiers.PROTOCOLS[name])

        def checks(ours):
            return compared(
                "a/b", experiment.ours(ours), experiment.reference, "float64"
            )

        found = checks(PACKAGE)
        assert all(passed(found))
        quantities = {check.quantity for check in found}
        assert {"head.bias", "backbone.bn1.running_var", "losses"} < quantities
        elsewhere = OF_FINETUNING if name == "linear" else OF_LINEAR
        for fault in CLASSIFIER_FAULTS.keys() - elsewhere:
            assert not all(passed(checks(FAULTS[fault].ours))), fault

    def test_can_be_chosen_by_name(self):
        assert set(get_args(FaultName)) == set(FAULTS)
        sections = [ON_ONE, ON_MANY, IN_STEP, LOCAL_FAULTS, CLASSIFIER_FAULTS]
        assert sum(map(len, sections)) == len(FAULTS) == 25


@pytest.mark.usefixtures("relaxed_promotion", "unchecked_signatures")
@pytest.mark.parametrize("optimizer", thinned(list(OPTIMIZERS), keep=["lars"]))
def test_a_training_compiles_its_step_once(optimizer):
    """The first state is placed as the step returns it, and of the same dtypes."""
    experiment = experiments.expander(12, 4, 32, optimizer, "float32")
    programs = experiment._programs(PACKAGE)

    def kinds(state):
        return jax.tree.map(
            lambda leaf: (leaf.dtype, leaf.weak_type, leaf.sharding, leaf.committed),
            state,
        )

    state = programs.start_from(experiment._tensors, "float32")
    first = kinds(state)
    inputs = training_jax._images(experiment.batches[0], "float32")
    state, _ = programs.train(state, *inputs)
    assert kinds(state) == first


class TestRoundings:
    """The float64 limits of training runs: neither nothing nor anything."""

    experiment = experiments.expander(12, 4, 32, "lars", "float64")

    def moved(self, unit):
        base = self.experiment.theirs().named()
        other = self.experiment.theirs(roundings=Roundings(unit)).named()
        return distances(base, other)

    def test_none_change_nothing(self):
        assert set(self.moved(0.0).values()) == {0.0}

    def test_moves_follow_the_unit(self):
        one, ten = self.moved(1e-14), self.moved(1e-13)
        for name, move in one.items():
            assert ten[name] == pytest.approx(10 * move, rel=1e-2), name

    def test_another_order_of_sums_is_the_same_network(self):
        model = torch_networks.vicreg(18, 2, 4)
        model = torch_networks.randomized(model).double().eval()
        other = training_torch.reordered(model, np.random.default_rng(0))
        x = torch.randn(2, 3, 24, 24, dtype=torch.float64)
        with torch.no_grad():
            np.testing.assert_allclose(other(x), model(x), rtol=1e-11)


class TestCatalog:
    def test_names_are_unique_and_levels_grow(self):
        before = []
        for level in Level:
            cases = catalog(level)
            names = [case.name for case in cases]
            assert len(set(names)) == len(names)
            assert set(before) < set(cases)
            before = cases

    def test_a_case_is_drawn_from_its_name_alone(self):
        for name in DISTRIBUTIONS:
            case = Case(name, 5, 4)
            np.testing.assert_array_equal(case.views(), case.views())

    def test_task_names_choose_one_task(self):
        tasks = suite.tasks(Level.FULL, PACKAGE)
        for task in tasks:
            assert suite.chosen(tasks, task.name) == [task]
        assert {task.name.split("/")[0] for task in tasks} == set(suite.SECTIONS)


class TestUpstream:
    @pytest.mark.parametrize("name", UPSTREAMS)
    def test_installed_code_agrees(self, name):
        try:
            checks = values.check_case(
                "a", Case("normal", 24, 64, "float64", name), PACKAGE
            )
        except NotRun as reason:
            pytest.skip(str(reason))
        assert all(passed(checks))

    def test_what_is_not_installed_is_not_passed(self, monkeypatch):
        def missing(name):
            raise importlib.metadata.PackageNotFoundError(name)

        monkeypatch.setattr(importlib.metadata, "distribution", missing)
        upstream._module.cache_clear()
        case = Case("normal", 24, 64, reference="quadra")
        outcome = suite.run(
            Task("values/a", lambda: values.check_case("a", case, PACKAGE))
        )
        assert outcome.not_run == "quadra: not installed"
        assert not outcome.checks
        assert verdict([outcome]) == BROKEN

    def test_git_blob(self):
        empty = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
        assert upstream.git_blob(b"") == empty


class TestVerdict:
    def test_exit_status(self):
        good, bad = Outcome("a/b", (PASSES,)), Outcome("a/b", (FAILS,))
        broken, absent = Outcome("a/b", error="why"), Outcome("a/b", not_run="why")
        assert verdict([good, absent]) == PASSED
        assert verdict([good, bad, broken]) == FAILED
        assert verdict([good, broken]) == BROKEN
        assert verdict([absent]) == verdict([]) == BROKEN

    def test_not_a_number_fails(self):
        nan = float("nan")
        assert not replace(PASSES, distance=nan).passed
        assert not replace(PASSES, peer_distance=nan, peer_limit=1.0).passed

    def test_a_reference_that_is_another_loss_fails(self):
        assert not replace(PASSES, peer_distance=2.0, peer_limit=1.0).passed

    def test_a_broken_task_is_an_outcome(self):
        outcome = suite.run(Task("values/a", lambda: [][0]))
        assert "IndexError" in outcome.error
        assert outcome.failed


class TestReport:
    outcomes = [
        Outcome("values/a", (PASSES, FAILS)),
        Outcome("values/b", not_run="quadra: not installed"),
    ]

    def test_failure_names_case_numbers_and_command(self):
        console = Console(file=io.StringIO(), width=200)
        report.tables(console, self.outcomes)
        report.failures(console, self.outcomes, ["--full"])
        printed = console.file.getvalue()
        for part in ("FAILED values/a", "ours    2.0", "PyTorch 1.0", "exact   1.0"):
            assert part in printed
        assert "python -m parity --full --filter values/a" in printed
        assert "not run: 1 cases: quadra: not installed" in printed

    def test_files(self, tmp_path):
        json_file, png = tmp_path / "a.json", tmp_path / "a.png"
        infinite = Outcome("values/c", (replace(FAILS, distance=float("inf")),))
        report.write_json(json_file, [*self.outcomes, infinite], {"jax": "0"})
        found = json.loads(json_file.read_text())
        assert [o["failed"] for o in found["outcomes"]] == [True, False, True]
        picture.draw(png, [*self.outcomes, infinite])
        assert png.read_bytes()[1:4] == b"PNG"

    def test_only_one_level(self):
        with pytest.raises(ValueError, match="only one of"):
            Options(quick=True, full=True)
        assert Options(huge=True).level is Level.HUGE
        assert Options(quick=True, inject="wrong-eps").without_filter == [
            *("--quick", "--inject", "wrong-eps")
        ]


class TestProcesses:
    sleep = ["timeit", "-n1", "-r1", "import time; time.sleep(300)"]

    def test_one_failure_ends_all(self, tmp_path):
        start = time.monotonic()
        with pytest.raises(RuntimeError, match="No module named"):
            processes.run([self.sleep, ["no_such_module"]], tmp_path, 100)
        assert time.monotonic() - start < 60

    def test_time_limit(self, tmp_path):
        with pytest.raises(TimeoutError, match="did not end in time"):
            processes.run([self.sleep], tmp_path, 0.2)


def test_the_gathers_gradient_leaves_autograds_buffer(monkeypatch):
    for name, found in {"get_world_size": 2, "get_rank": 1}.items():
        monkeypatch.setattr(torch.distributed, name, lambda found=found: found)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda x: x.mul_(2))
    given = torch.arange(4.0)
    summed = ddp_process.Gather.backward(None, given)
    assert summed.tolist() == [4, 6] and given.tolist() == [0, 1, 2, 3]


def test_a_failed_run_leaves_no_hooks():
    model = torch.nn.Sequential(torch.nn.ReLU())
    with pytest.raises(KeyError), training_torch._relus(model, lambda x: x):
        raise KeyError
    assert not model[0]._forward_pre_hooks


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")  # as the process that it is compared with
def test_same_seed_same_bits():
    assert list(passed(reproducibility.check("values", "cpu"))) == [True, True]


@pytest.mark.parametrize(
    "arguments, status, last",
    [
        pytest.param(
            ["--filter", "values/torch-normal-2x3-*"],
            PASSED,
            "passed",
            marks=pytest.mark.slow,
        ),
        (
            ["--filter", "values/torch-normal-2x3-*", "--inject", "halved-hinge"],
            FAILED,
            "halved-hinge was caught by values",
        ),
        pytest.param(
            ["--filter", "nothing"],
            BROKEN,
            "nothing was compared",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_command_line(arguments, status, last):
    found = completed("-m", "parity", "--quick", "--platform", "cpu", *arguments)
    assert found.returncode == status, found.stderr
    assert found.stdout.splitlines()[-1] == last
