"""A function in a process of its own: its messages are heard as they come, and a process that dies is a sentence.

Its memory and threads are its own, and its failure takes nothing else with it. Nothing but the standard library is
imported here, so that a process measures the function and not this module.
"""

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, NamedTuple, ParamSpec, TypeVar, cast

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


T = TypeVar("T")
P = ParamSpec("P")
Send = Callable[..., None]  # the kind of a message, then its values


class Failure(NamedTuple):
    """Why a process gave no result: a sentence, and the traceback where Python has one."""

    sentence: str
    traceback: str = ""

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        """Return the failure that an exception is: its sentence, or its type and words where it is not one of ours."""
        from recvae.errors import RecvaeError, is_out_of_memory

        sentence = str(error) if isinstance(error, RecvaeError) else f"{type(error).__name__}: {error}"
        if is_out_of_memory(error):
            sentence = "There is not enough memory for it."
        return cls(sentence, "".join(traceback.format_exception(error)))


def in_a_process(
    work: "Callable[Concatenate[Send, P], T]",
    hear: Mapping[str, Callable[..., object]],
    *arguments: P.args,
    **named: P.kwargs,
) -> T | Failure:
    """Return the result of ``work(send, *arguments, **named)`` in a fresh process, or why there is none.

    ``work`` must be importable; result and arguments are pickled. ``send(kind, *values)`` calls ``hear[kind]`` with the
    values in this process, in the thread that waits. An exception here, Ctrl-C included, ends the process at once, and
    the end of this process ends the other. Threads may call this at the same time.
    """
    context = multiprocessing.get_context("spawn")  # a fork would share this process's memory and threads
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(theirs, work, arguments, named), daemon=True)
    with _interrupts_stay_here():
        process.start()
    theirs.close()  # so that the end of the process is the end of all that can be read
    try:
        while True:
            kind, *values = ours.recv()
            if kind == _RESULT:
                return cast("T | Failure", values[0])
            hear[kind](*values)
    except EOFError:
        process.join()
        return Failure(_death(process.exitcode))
    except BaseException:
        process.kill()  # Ctrl-C is answered at once
        raise
    finally:
        process.join(timeout=5)  # it has answered, and is on its way out
        if process.is_alive():
            process.kill()
        process.join()
        ours.close()


_RESULT = "_result"


def _serve(connection: "Connection", work: Callable[..., Any], arguments: tuple[Any, ...], named: Any) -> None:
    """Do the work and send its result, or why there is none."""
    with suppress(ValueError):  # where the work is not in the main thread
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # also where the process was started by a thread
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the process that waits tidies up, not this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        result = work(lambda *message: connection.send(message), *arguments, **named)
    except BrokenPipeError:  # nobody listens any more
        return
    except Exception as error:  # noqa: BLE001 - the failure of one must not lose the others' work
        result = Failure.of(error)
    with suppress(BrokenPipeError):
        connection.send((_RESULT, result))


def _end_with_parent() -> None:
    """End this process when its parent has ended, however that was: nothing writes behind the back of a next call."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _death(status: int | None) -> str:
    """Return a sentence about a process that ended without an answer."""
    if status is not None and status < 0:
        name = signal.Signals(-status).name
        hint = ", perhaps for lack of memory" if name == "SIGKILL" else ""
        return f"Its process was ended by {name}{hint}."
    return f"Its process ended with status {status} and without a result."


@contextmanager
def _interrupts_stay_here() -> Iterator[None]:
    """Start a process that does not hear Ctrl-C: this process hears it, and ends the other."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def peak_memory_mb() -> float | None:
    """Return this process's peak resident memory in 10^6 bytes, None where the system does not say.

    Linux counts into ru_maxrss the memory that a process had before it began to run its own program, which for a
    spawned process is its parent's; VmHWM starts afresh.
    """
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        peak = next(line for line in lines if line.startswith("VmHWM:"))
        return round(int(peak.split()[1]) * 1024 / 1e6, 1)
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)
