"""One run over several processes, on one machine or on many.

Every process runs the same script (SPMD) and holds all parameters; the points are shared out over the devices of all of
them. What only one can decide (the clock, an interruption) process 0 decides and tells the others, so that all of them
compute the same things in the same order: a collective that one process alone enters never ends.
"""

import atexit
import contextlib
import dataclasses
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence

from ravine.hardware import cores

JOIN_SECONDS = 120  # how long processes wait for one another at the start
# A process that was silent for so long counts as dead. What is killed is noticed at once, by its closed connections;
# this is for a machine that vanishes. It is also how long the others may take to save: then JAX ends them.
HEARTBEAT_SECONDS = 60
PATIENCE_SECONDS = 10  # how long they wait before saying so
LEAVE_SECONDS = 300  # how long a process that is done waits for the others, which may be saving or drawing

LOST = 3  # exit code of a process that was left alone
MOST = 64  # processes that `start` starts

OWN = ("RAVINE_COORDINATOR", "RAVINE_HOSTS", "RAVINE_HOST")
SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
# How JAX words a collective, or the coordination, that lost a process; it raises ValueError or a RuntimeError.
GONE = re.compile(r"gloo|NCCL|coordination service|connection (reset|closed)|heartbeat", re.IGNORECASE)


class HostLost(RuntimeError):
    """Another process of the run is gone, so that nothing more can be computed together."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Process `index` of `count`, which meet at `address` ("host:port"; None where Slurm knows it)."""

    address: str | None
    count: int
    index: int


def place(environment: Mapping[str, str] = os.environ) -> Place | None:
    """Which process of how many the environment says this is: RAVINE_COORDINATOR, RAVINE_HOSTS and RAVINE_HOST, or what
    `srun` sets. None for a process on its own, a Slurm batch script outside `srun` included.

    **Raises:** `ValueError` for settings that contradict each other or are no numbers.

    ```python
    >>> from ravine.hosts import place
    >>> place({"RAVINE_COORDINATOR": "node1:1234", "RAVINE_HOSTS": "2", "RAVINE_HOST": "1"})
    Place(address='node1:1234', count=2, index=1)
    >>> place({"SLURM_NTASKS": "2"}) is None
    True

    ```
    """
    given = [name for name in OWN if environment.get(name)]
    if given:
        missing = [name for name in OWN if name not in given]
        if missing:
            raise ValueError(f"{', '.join(given)} is set in the environment, but {', '.join(missing)} is not.")
        return check_place(Place(environment[OWN[0]], *(_whole(environment, name) for name in OWN[1:])))
    if all(environment.get(name) for name in SLURM) and _whole(environment, SLURM[2]) > 1:
        return check_place(Place(None, *(_whole(environment, name) for name in SLURM[2:4])))
    return None


def _whole(environment: Mapping[str, str], name: str) -> int:
    try:
        return int(environment[name])
    except ValueError:
        raise ValueError(f"{name} is {environment[name]!r} in the environment, but must be a whole number.") from None


def check_place(found: Place) -> Place:
    """**Raises:** `ValueError` unless the index lies in 0 … count − 1 and the address is of the form host:port."""
    if not 0 <= found.index < found.count:
        raise ValueError(
            f"Process {found.index} of {found.count} cannot be: the index of a process runs from 0 to count − 1."
        )
    port = None if found.address is None else re.fullmatch(r".+:(\d{1,5})", found.address)
    if found.address is not None and (port is None or not 0 < int(port[1]) < 2**16):
        raise ValueError(
            f"The address at which processes meet is {found.address!r}, but must be the machine of process 0 and a "
            "free port there, such as node1:12345."
        )
    return found


def join_hosts(address: str | None = None, count: int | None = None, index: int | None = None) -> int:
    """Makes this process one of several that train together: `rv.join_hosts("node1:12345", 2, 0)`.

    Every process runs the same script, and calls this first of all, after `use_cores` where that is wanted. `train`
    then shares the points of a batch out over the devices of all processes. Callbacks, and with them checkpoints, run
    on process 0 alone, and its clock counts; every process gets the same `Run`. Step budgets give what one process
    gives, to rounding. When a process is gone, `train` ends on the others with what was reached, as `Stop.HOST_LOST`.

    **Arguments:** `address`, "host:port" of process 0; `count`, how many processes there are; `index`, which one this
    is, from 0. Without any of them the environment is read: that of `srun`, or RAVINE_COORDINATOR, RAVINE_HOSTS and
    RAVINE_HOST; where it names no others, the process works alone.

    **Returns:** how many processes there are.

    **Raises:** `ValueError` for arguments or an environment that make no sense; `RuntimeError` when JAX has started
    already, when the port is taken, or when processes have different numbers of devices. When the others do not come
    within two minutes, JAX ends the process. An exception that nobody catches ends the process at once from here on,
    since the others wait for it.
    """
    if (address, count, index) == (None, None, None):
        found = place()
    elif address is None or count is None or index is None:
        raise ValueError("join_hosts: give address, count and index, or none of them.")
    else:
        found = check_place(Place(address, count, index))
    if found is None or found.count == 1:
        return 1
    _join(found)
    return found.count


def _join(found: Place) -> None:
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # Nobody else on the network may connect to processes of one machine.
    local = found.address is not None and found.address.rsplit(":", 1)[0] in ("127.0.0.1", "localhost")
    waiting = threading.Timer(PATIENCE_SECONDS, _say_who_waits, (found,))
    waiting.daemon = True
    waiting.start()
    try:
        jax.distributed.initialize(
            found.address,
            found.count,
            found.index,
            cluster_detection_method="slurm" if found.address is None else "deactivate",
            initialization_timeout=JOIN_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=LEAVE_SECONDS,
            coordinator_bind_address=found.address if local else None,
        )
    except RuntimeError as error:
        raise RuntimeError(
            f"join_hosts: process {found.index} of {found.count} could not join the others at {found.address} "
            f"({str(error).splitlines()[0]}). Likely causes: (a) JAX had started already: call join_hosts before "
            "anything else, (b) the address is not that of process 0, or its port is taken, (c) it was called twice."
        ) from error
    finally:
        waiting.cancel()
    sys.excepthook = _leave_at_once
    atexit.register(_leave_if_parted)  # after JAX's own, hence run before it
    devices = [sum(one.process_index == process for one in jax.devices()) for process in range(found.count)]
    if len(set(devices)) > 1:
        raise RuntimeError(
            f"join_hosts: the processes have {devices} devices, but must have equally many. On CPUs, call "
            "ravine.use_cores(n) with the same n first."
        )
    # The first collective: Gloo connects, and says so on stdout, which is not its own.
    with _stdout_closed():
        told(0.0)


def _leave_at_once(kind, error, trace) -> None:
    """An orderly exit waits for the other processes, which wait for this one."""
    traceback.print_exception(kind, error, trace)
    leave(1)


def _say_who_waits(found: Place) -> None:
    print(
        f"ravine: process {found.index} of {found.count} waits for the others, at {found.address or 'the first node'}, "
        f"at most {JOIN_SECONDS} s.",
        file=sys.stderr,
        flush=True,
    )


_parted = threading.Event()


def part() -> None:
    """From here on, this process computes nothing together with the others: one of them is gone, or it goes itself."""
    _parted.set()


def parted() -> bool:
    """Whether this process computes nothing together with the others any more."""
    return _parted.is_set()


def _leave_if_parted() -> None:
    """JAX would wait for a process that is gone, and then abort."""
    if parted():
        leave(LOST)


def leave(code: int) -> None:
    """Ends this process without waiting for the others."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextlib.contextmanager
def _stdout_closed() -> Iterator[None]:
    """Nothing reaches stdout, not from C++ either."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


# ------------------------------------------------------------------------------------------- what processes agree on


def alone() -> bool:
    """Whether this process works by itself."""
    import jax

    return not jax.distributed.is_initialized() or jax.process_count() == 1


def leads() -> bool:
    """Whether this is process 0 (or the only one): the one that prints, draws and saves."""
    import jax

    return alone() or jax.process_index() == 0


def told(value: float) -> float:
    """The value that process 0 has, on every process. **Raises:** `HostLost`. **Cost:** one small reduction."""
    if alone():
        return value
    import numpy as np
    from jax.experimental import multihost_utils

    with watched():
        return float(multihost_utils.broadcast_one_to_all(np.asarray(value, np.float32)))


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Turns the many ways in which JAX reports a lost process into `HostLost`."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        if isinstance(error, HostLost) or alone() or not GONE.search(str(error)):
            raise
        part()
        raise HostLost("Another process of this run is gone.") from error


def follow(action: Callable[[], object]) -> None:
    """Runs `action` on process 0 alone. If it raises there, every process leaves here (unless they have parted).

    **Raises:** what the action raises; on the others `KeyboardInterrupt` for one, and `HostLost` for anything else.
    """
    if alone() or parted():
        if leads():
            action()
        return
    raised: BaseException | None = None
    if leads():
        try:
            action()
        except BaseException as error:
            raised = error
    kind = told(0.0 if raised is None else 1.0 if isinstance(raised, KeyboardInterrupt) else 2.0)
    if raised is not None:
        raise raised
    if kind:
        raise KeyboardInterrupt if kind == 1 else HostLost("Process 0 ended the run.")


def shared(tree, mesh):
    """A copy of every array of `tree`, equal on all processes, on every device of the mesh. Sends nothing."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    everywhere = NamedSharding(mesh, PartitionSpec())

    def share(leaf):
        if not isinstance(leaf, jax.Array):
            return leaf
        if leaf.is_fully_addressable:  # `device_put` to all would compare the values over the network first
            parts = [jax.device_put(leaf, device) for device in mesh.local_devices]
        else:
            parts = [shard.data for shard in leaf.addressable_shards]
        return jax.make_array_from_single_device_arrays(leaf.shape, everywhere, parts)

    return jax.tree.map(share, tree)


def own(tree):
    """The arrays of `tree`, which every process holds whole, as arrays of this process alone."""
    import jax

    def take(leaf):
        held = isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
        return leaf.addressable_data(0) if held else leaf

    return jax.tree.map(take, tree)


# -------------------------------------------------------------------------------- several processes on this machine


def share(count: int) -> list[list[int]]:
    """The cores of this machine dealt out to `count` processes: equally many each, at least one.

    ```python
    >>> from ravine.hosts import share
    >>> parts = share(2)
    >>> len(parts), len(parts[0]) == len(parts[1]) >= 1
    (2, True)

    ```
    """
    known = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(cores()))
    size = max(1, len(known) // count)
    return [[known[(index * size + one) % len(known)] for one in range(size)] for index in range(count)]


def start(command: Sequence[str], count: int) -> tuple[Place, list[subprocess.Popen]]:
    """Starts `command` as processes 1 … count − 1 of a run on this machine; the caller is process 0.

    Each is kept to its share of the cores, the caller too; they read nothing, write to stderr only, and leave Ctrl-C to
    process 0.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    children = []
    before = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if main:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited, and kept by Python where it is found
    try:
        for index, part in reversed(list(enumerate(share(count)))):
            if hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(0, part)  # inherited as well; the last one set is that of process 0
            if index:
                names = dict(zip(OWN, (address, str(count), str(index)), strict=True))
                children.append(
                    subprocess.Popen(
                        command,
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        env=os.environ | names,
                    )
                )
    finally:
        if main:
            signal.signal(signal.SIGINT, before)
    return Place(address, count, 0), children[::-1]


def stop(children: Sequence[subprocess.Popen]) -> None:
    """Ends processes that `start` started, at once."""
    for child in children:
        child.kill()
    for child in children:
        child.wait()
