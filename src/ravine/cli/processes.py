"""The processes of a run over several: who leads, who starts whom, how they part."""

import signal
import subprocess
import sys
import threading
import time

from ravine import hosts as company
from ravine.words import Refusal

typed: list[str] = []  # the arguments of this command, for the processes that take part in it
_children: list[subprocess.Popen] = []  # those that were started here


def find_place(count: int | None) -> company.Place | None:
    """Which process of how many this is; None for one by itself. Starts nothing."""
    if count is not None and not 1 <= count <= company.MOST:
        raise Refusal(f"--hosts is the number of processes on this machine, from 1 to {company.MOST}; got {count}.")
    try:
        found = company.place()
    except ValueError as error:
        raise Refusal(str(error)) from None
    if found is not None and count not in (None, found.count):
        raise Refusal(f"--hosts is {count}, but the environment says that there are {found.count} processes.")
    if found is None and count is not None and count > 1:
        return company.Place(None, count, 0)
    return found


def leads() -> bool:
    """Whether this is the process that prints, draws and saves."""
    try:
        found = company.place()
    except ValueError:
        return True
    return found is None or found.index == 0


def launch(place: company.Place) -> company.Place:
    """Starts the other processes of a run on this machine, unless somebody else started them all."""
    if company.place() is None:
        place, children = company.start([sys.executable, "-m", "ravine.cli", *typed], place.count)
        _children.extend(children)
    elif place.index and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # process 0 decides, and tells
    return place


def meet(place: company.Place) -> None:
    """Joins the other processes of a run."""
    try:
        if place.address is None:
            company.join_hosts()
        else:
            company.join_hosts(place.address, place.count, place.index)
    except (RuntimeError, ValueError) as error:
        raise Refusal(str(error)) from None


def dismiss(code: int) -> int:
    """Ends a run over several processes, together or, when something went wrong, at once."""
    if "jax" not in sys.modules or company.alone():
        company.stop(_children)
        return code
    if code == 0 and not company.parted():
        import jax

        jax.distributed.shutdown()  # waits for all
        return code
    company.stop(_children)
    company.leave(code)
    return code


def who_is_gone() -> str:
    """The processes that are gone, in words; not those that ended because they noticed."""
    import jax

    count, index = jax.process_count(), jax.process_index()
    if count == 2:
        return f"Process {1 - index} of 2 is gone"
    for _ in range(30):  # those started here can be asked; one that was killed may take a moment to end
        codes = {number: child.poll() for number, child in enumerate(_children, 1)}
        gone = [str(number) for number, code in codes.items() if code not in (None, company.LOST)]
        if gone:
            return f"Process {' and '.join(gone)} of {count} {'is' if len(gone) == 1 else 'are'} gone"
        time.sleep(0.01)
    return f"A process of {count} is gone"


def kept() -> str:
    """What is left of a run that lost a process."""
    return "Nothing was reached yet." if leads() else "What process 0 saved last can be gone on with: ravine resume RUN"
