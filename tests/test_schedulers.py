"""Two tasks of one run under Slurm, requeued on the way, and under Open MPI."""

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import few_digits
import pytest
from processes import (
    FLAGS,
    PATIENCE,
    TINY,
    compiled_quickly,
    end,
    of_two,
    start,
    started,
    wait_for,
)
from runs import checksum, seen

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
WAITING = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING"}


def needs(package, *programs):
    missing = [name for name in programs if shutil.which(name) is None]
    reason = f"not installed: {', '.join(missing)} (apt-get install {package})"
    return pytest.mark.skipif(bool(missing), reason=reason)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Flags for images without labels."""
    return few_digits.unlabeled(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """An uninterrupted run in two processes that no scheduler started."""
    out = tmp_path_factory.mktemp("whole")
    pair = [start(out, *data, *flags) for flags in of_two()]
    with started(*pair):
        ended = [end(process) for process in pair]
    assert [status for status, _ in ended] == [0, 0], ended
    return out


def environment(**more):
    """Returns the environment of a task, whose command is that of this Python."""
    own = os.path.dirname(sys.executable)
    return os.environ | {
        "PATH": os.pathsep.join([own, os.environ["PATH"], "/usr/sbin"]),
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
        "XLA_FLAGS": FLAGS,
        **compiled_quickly(),
        **more,
    }


@contextmanager
def slurm():
    """Runs Slurm, and yields a function that runs a command of it."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as directory:  # a short path
        with _slurm(Path(directory)) as command:
            yield command


@contextmanager
def _slurm(directory):
    use = environment(SLURM_CONF=str(directory / "slurm.conf"))
    # It ends when its standard input does, which is also when this process is killed.
    program = [sys.executable, ROOT / "tests" / "slurm_cluster.py", directory]
    with (
        (directory / "log").open("w") as log,
        subprocess.Popen(
            program, env=use, stdin=subprocess.PIPE, stdout=log, stderr=log
        ) as cluster,
    ):

        def command(*words):
            """Returns what it prints, or "" if it does not reach a busy slurmctld."""
            assert cluster.poll() is None, (directory / "log").read_text()
            words = [str(word) for word in words]
            output = {"stdout": subprocess.PIPE, "stderr": log, "text": True}
            done = subprocess.run(words, env=use, check=False, **output)
            return done.stdout.strip()

        wait_for((directory / "slurm.conf").exists)
        wait_for(lambda: command("sinfo", "-h", "-o%T") == "idle", pause=0.5)
        yield command


@pytest.mark.usefixtures("unchecked_signatures")
@needs("slurm-wlm munge", "munged", "slurmctld", "slurmd", "sbatch")
def test_slurm_requeues_a_job_that_goes_on_to_the_same_bits(data, whole, tmp_path):
    out, log = tmp_path / "run", tmp_path / "log"
    log.touch()
    with slurm() as command:

        def ended():
            """Returns the number of requeues and the state, once it has ended."""
            shown = command("scontrol", "--oneliner", "show", "job", job)
            words = dict(word.split("=", 1) for word in shown.split() if "=" in word)
            state = words.get("JobState", "PENDING")
            return None if state in WAITING else (words["Restarts"], state)

        script = ROOT / "examples" / "slurm.sbatch"
        asked = ["--parsable", "--ntasks=2", "--time=60", f"--output={log}"]
        job = command("sbatch", *asked, script, *TINY, *data, "--out", out)
        # Slurm sends the signal of the script within a minute of its time. This sends
        # the same one to the same processes, while both compile.
        wait_for(lambda: "Compiling the first step" in log.read_text())
        command("scancel", "--signal=TERM", job)
        found = wait_for(ended, pause=0.5)
        assert found == ("1", "COMPLETED"), log.read_text()
    printed = log.read_text()
    assert "; the same command resumes the run" in printed
    assert "Going on after step" in printed
    assert seen(out) == seen(whole)
    assert checksum(out) == checksum(whole)


@pytest.mark.usefixtures("unchecked_signatures")
@needs("openmpi-bin", "mpirun")
def test_open_mpi_is_found(data, whole, tmp_path):
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    words = ["mpirun", "-n", "2", "--oversubscribe", "--bind-to", "none"]
    words += ["--mca", "oob_tcp_if_include", "lo", "vicreg-pretrain", *TINY, *data]
    done = subprocess.run(
        [*words, "--distributed", "--out", tmp_path],
        check=False,
        env=environment(**root),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout
    assert "of 2 processes" in done.stdout
    assert seen(tmp_path) == seen(whole)
    assert checksum(tmp_path) == checksum(whole)
