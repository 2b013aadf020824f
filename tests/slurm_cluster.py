"""Slurm on one node, all of it on loopback: run by `test_slurm`.

python tests/slurm_cluster.py FOLDER

It starts munged, slurmctld and slurmd with all their files in FOLDER, and runs until
its standard input ends, as it also does when the test is killed, or until one of the
three ends. Then it kills everything that it has started, jobs included.
"""

import ctypes
import getpass
import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from processes import descendants

_PR_SET_CHILD_SUBREAPER = 36
# A requeued job waits until the credential of its earlier start has expired.
_CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
MessageTimeout=100
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket,cred_expire=5
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SchedulerParameters=batch_sched_delay=0,sched_interval=1
SlurmdParameters=config_overrides
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def main():
    """Starts the daemons, waits, and ends everything."""
    directory = Path(sys.argv[1])
    # Slurm's job steps leave their parent. Then they become this process's children.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        running = [
            subprocess.Popen(command, stdin=subprocess.DEVNULL)
            for command in daemons(directory)
        ]
        while not any(select.select([sys.stdin], [], [], 0.1)):
            if any(daemon.poll() is not None for daemon in running):
                break
    finally:
        kill_all()


def daemons(directory):
    """Writes the configuration, and returns the three commands, in the foreground."""
    key = directory / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    for name in ("state", "spool"):
        (directory / name).mkdir()
    configuration = directory / "slurm.conf"
    configuration.write_text(
        _CONFIGURATION.format(
            directory=directory,
            host=socket.gethostname().partition(".")[0],
            ports=free_ports(2),
            user=getpass.getuser(),
        )
    )
    munge = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "s"}
    options = [f"--{name}={directory}/munge.{file}" for name, file in munge.items()]
    return (
        # By force, because other users need not reach the socket.
        ["munged", "--force", "--foreground", f"--key-file={key}", *options],
        [
            "slurmctld",
            "-D",
            "-i",
            "-f",
            configuration,
            "-L",
            directory / "slurmctld.log",
        ],
        ["slurmd", "-D", "-f", configuration, "-L", directory / "slurmd.log"],
    )


def free_ports(count):
    """Returns ports of loopback that nothing uses."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def kill_all():
    """Kills and reaps all processes below this one."""
    while left := descendants(os.getpid()):
        for process in left:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(-1, 0)


if __name__ == "__main__":
    main()
