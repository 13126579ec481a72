"""What a launcher (torchrun, srun) says to the processes it has started, and how rank 0 speaks to the others.

Importing this file costs no torch: a refusal is quick.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from lmzoo.errors import LmzooError
from lmzoo.settings import HardwareConfig

if TYPE_CHECKING:
    from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment

SECONDS_TO_MEET = 600.0
"""How long processes wait for rank 0 to be there at all; then, for its job, as long as it takes."""
SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_TO_BE_HEARD = 20.0


@dataclass(frozen=True)
class Launch:
    """One of the processes that a launcher has started for one run."""

    launcher: str
    """`torchrun` or `srun`."""
    rank: int
    processes: int
    """Of all nodes."""
    nodes: int

    def __str__(self) -> str:
        return f"{self.launcher} started {self.processes} processes on {self.nodes} nodes"


def launch() -> Launch | None:
    """What a launcher says in the environment; None where this process was started by nobody of that kind.

    Raises:
        LmzooError: srun was not told how many tasks a node is to have.
    """
    said = os.environ
    if "TORCHELASTIC_RUN_ID" in said:
        return Launch(
            "torchrun", int(said["RANK"]), int(said["WORLD_SIZE"]), int(said.get("GROUP_WORLD_SIZE", 1))
        )
    # in a batch script itself, which runs once, srun has not been there; one task may start ranks of its own
    if int(said.get("SLURM_NTASKS", 1)) > 1 and {"SLURM_STEP_ID", "SLURM_PROCID"} <= set(said):
        if "SLURM_NTASKS_PER_NODE" not in said:
            raise LmzooError(
                f"srun was told --ntasks={said['SLURM_NTASKS']} alone; give --ntasks-per-node= too "
                "(docs/scale.md has a whole script)"
            )
        nodes = int(said.get("SLURM_NNODES", 1))
        return Launch("srun", int(said["SLURM_PROCID"]), int(said["SLURM_NTASKS"]), nodes)
    return None


def check_launch(hardware: HardwareConfig) -> None:
    """Check that as many processes were started as ``hardware`` asks for.

    Raises:
        LmzooError: they are more or fewer, or several nodes are asked for and there is no launcher.
    """
    started = launch()
    if started is None:
        if hardware.nodes > 1:
            raise LmzooError(
                f"hardware.nodes={hardware.nodes} needs torchrun or srun, which start the processes of all "
                "nodes; docs/scale.md has the commands"
            )
        return
    fitting = (started.processes // started.nodes, started.nodes)
    if (hardware.devices, hardware.nodes) != fitting:
        raise LmzooError(
            f"{started}, and hardware.devices={hardware.devices} hardware.nodes={hardware.nodes} asks for "
            f"others; give hardware.devices={fitting[0]} hardware.nodes={fitting[1]}"
        )


class Relay:
    """The way from rank 0 of a launcher's processes to the others, by the store of their process group."""

    def __init__(self, started: Launch, environment: ClusterEnvironment) -> None:
        """Meet. ``environment`` knows rank 0's address. Raises LmzooError where nobody is there."""
        from torch.distributed import TCPStore  # type: ignore[reportPrivateImportUsage]

        self._others = started.processes - 1
        # torchrun keeps a store of its own, also over its restarts; else rank 0 has it
        hosts = started.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        self._key = f"lmzoo/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
        address, port = environment.main_address, environment.main_port
        try:
            self._store: Any = TCPStore(
                address,
                port,
                is_master=hosts,
                wait_for_workers=False,
                timeout=timedelta(seconds=SECONDS_TO_MEET),
                multi_tenant=True,  # the process group opens it again
            )
        except RuntimeError as error:
            reason = (str(error).splitlines() or [""])[0]
            raise LmzooError(
                f"{started}, and rank 0 is not to be reached at {address}:{port} ({reason})"
            ) from error
        self._spoken = False

    def hand(self, job: dict[str, Any]) -> None:
        """Give the others their job; rank 0 alone."""
        self._say(job)

    def release(self) -> None:
        """Let the others go if they were given nothing; rank 0 alone."""
        if self._spoken:
            return
        self._say(None)
        end = time.monotonic() + SECONDS_TO_BE_HEARD  # the store goes with this process
        while self._store.add(f"{self._key}/heard", 0) < self._others and time.monotonic() < end:
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def _say(self, job: dict[str, Any] | None) -> None:
        self._spoken = True
        self._store.set(f"{self._key}/job", json.dumps(job))

    def receive(self) -> dict[str, Any] | None:
        """The job, or None where there is none. Raises LmzooError where rank 0 has gone without a word."""
        try:
            while not self._store.check([f"{self._key}/job"]):
                time.sleep(SECONDS_BETWEEN_LOOKS)
            job = json.loads(self._store.get(f"{self._key}/job"))
            self._store.add(f"{self._key}/heard", 1)
        except RuntimeError as error:
            raise LmzooError("rank 0 ended before the run began") from error
        return job
