"""The n-th file operation of a process: counted, cut short, made to fail, or the last one it does.

The kernel counts, by ptrace and a seccomp filter, so that whatever library writes is seen: Python, Arrow, safetensors.
An operation is a system call that changes what is under one folder. Linux on x86-64.
"""

import ctypes
import os
import platform
import signal
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

# How each call names what it changes: by a descriptor, by a path, or by a path beside the descriptor of a folder; the
# number is that argument's place.
_AT = {"openat": (257, 0), "mkdirat": (258, 0), "unlinkat": (263, 0), "fchmodat": (268, 0), "fchmodat2": (452, 0)}
_AT |= {"renameat": (264, 0), "renameat2": (316, 0), "linkat": (265, 2), "symlinkat": (266, 1)}
_PATH = {"open": 2, "creat": 85, "mkdir": 83, "rmdir": 84, "unlink": 87, "rename": 82, "truncate": 76, "chmod": 90}
_FILE = {"write": 1, "pwrite64": 18, "writev": 20, "fsync": 74, "fdatasync": 75, "ftruncate": 77, "fchmod": 91}
NAMES = {number: name for name, (number, _) in _AT.items()} | {
    n: name for names in (_PATH, _FILE) for name, n in names.items()
}

_RAX, _RDX, _ORIG_RAX = 10, 12, 15  # places in user_regs_struct
_ARGUMENTS = (14, 13, 12, 7, 9, 8)  # of rdi, rsi, rdx, r10, r8, r9
_TRACEME, _CONT, _GETREGS, _SETREGS, _SYSCALL, _SETOPTIONS = 0, 7, 12, 13, 24, 0x4200
_OPTIONS = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 7 | 1 << 20  # fork, vfork, clone, seccomp, kill at the tracer's exit
_SECCOMP_STOP = signal.SIGTRAP | 7 << 8
_ALL = 0x40000000  # __WALL: threads too
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

_Registers = ctypes.c_ulong * 27
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class Tracer:
    """Follows a process through its operations under ``root``.

    ``kill_before``, ``kill_within`` (a write: half of it is done): the number of the operation, from 1, at which the
    process is killed, ``end`` by this signal. ``fail``: the number at which an operation fails with ``errno``, and with
    ``on`` all that need space after it too. ``pause``: the number before which ``meanwhile`` runs here, while the
    process stands still.
    """

    root: Path
    kill_before: int = 0
    kill_within: int = 0
    fail: int = 0
    errno: int = 0
    on: bool = False
    end: signal.Signals = signal.SIGKILL
    pause: int = 0
    meanwhile: Callable[[], object] | None = None
    operations: list[str] = field(default_factory=list)

    def prepare(self) -> None:
        """Ask to be traced, and stop."""
        _ptrace(_TRACEME, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        _install_filter()

    def follow(self, pid: int) -> int:
        """Trace ``pid`` and what it forks to its end."""
        _, status = os.waitpid(pid, 0)
        if not os.WIFSTOPPED(status):
            return status
        _ptrace(_SETOPTIONS, pid, 0, _OPTIONS)
        _ptrace(_CONT, pid)
        ended = None
        while ended is None:
            who, status = os.waitpid(-pid, _ALL)
            if not os.WIFSTOPPED(status):
                ended = status if who == pid else None
                continue
            event = status >> 8
            passed_on = 0
            if event == _SECCOMP_STOP:
                self._at_operation(who, pid)
            elif not event >> 8 and event not in (signal.SIGSTOP, signal.SIGTRAP):
                passed_on = event
            _ptrace(_CONT, who, 0, passed_on)
        return ended

    def _at_operation(self, who: int, group: int) -> None:
        registers = _Registers()
        if _ptrace(_GETREGS, who, 0, ctypes.addressof(registers)) < 0:
            return
        name = NAMES.get(registers[_ORIG_RAX])
        path = None if name is None else self._changed(who, name, registers)
        if name is None or path is None:
            return
        self.operations.append(f"{name} {path.name}")
        n = len(self.operations)
        if n == self.pause and self.meanwhile is not None:
            self.meanwhile()
        if n == self.kill_before:
            os.killpg(group, self.end)
        elif n == self.kill_within:
            registers[_RDX] = registers[_RDX] // 2
            _ptrace(_SETREGS, who, 0, ctypes.addressof(registers))
            _ptrace(_SYSCALL, who)
            os.waitpid(who, _ALL)
            os.killpg(group, self.end)
        elif n == self.fail or (self.on and 0 < self.fail < n and _needs_space(name, registers)):
            registers[_ORIG_RAX] = ctypes.c_ulong(-1).value
            registers[_RAX] = ctypes.c_ulong(-self.errno).value
            _ptrace(_SETREGS, who, 0, ctypes.addressof(registers))

    def _changed(self, who: int, name: str, registers: "ctypes.Array[ctypes.c_ulong]") -> Path | None:
        """Return what a call changes, None where that is not under the root."""
        arguments = [registers[place] for place in _ARGUMENTS]
        if name in ("openat", "open") and not arguments[2 if name == "openat" else 1] & _WRITING:
            return None
        try:
            if name in _FILE:
                path = str(Path(f"/proc/{who}/fd/{arguments[0]}").readlink())
            elif name in _AT:
                first = _AT[name][1]
                path = _text(who, arguments[first + 1])
                if not path.startswith("/"):
                    folder = ctypes.c_int(arguments[first] & 0xFFFFFFFF).value
                    at = "cwd" if folder == -100 else f"fd/{folder}"
                    path = str(Path(f"/proc/{who}/{at}").readlink() / path)
            else:
                path = str(Path(f"/proc/{who}/cwd").readlink() / _text(who, arguments[0]))
        except OSError:
            return None
        return Path(path) if path.startswith(f"{self.root}/") else None


def can_trace() -> bool:
    """Return whether this system lets a process trace the ones it forks, and is one whose calls are known here."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    pid = os.fork()
    if not pid:
        allowed = _ptrace(_TRACEME, 0) == 0
        os._exit(0 if allowed and _install_filter() else 1)
    return os.waitpid(pid, 0)[1] == 0


def _needs_space(name: str, registers: "ctypes.Array[ctypes.c_ulong]") -> bool:
    if name in ("unlink", "unlinkat", "rmdir", "rename", "renameat", "renameat2", "chmod", "fchmod", "fchmodat"):
        return False
    return name not in ("fsync", "fdatasync", "ftruncate")


def _text(who: int, address: int) -> str:
    with open(f"/proc/{who}/mem", "rb", buffering=0) as memory:  # noqa: PTH123
        memory.seek(address)
        return memory.read(4096).partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> int:
    numbers = [ctypes.c_long(value) for value in (request, pid, address, data)]
    return int(_libc.ptrace(*numbers))


def _install_filter() -> bool:
    """Ask the kernel to stop this process at the calls of NAMES and at no other."""
    load, equal, answer = 0x20, 0x15, 0x06
    numbers = sorted(NAMES)
    program = [(load, 0, 0, 0)]  # the call's number
    program += [(equal, len(numbers) - place, 0, number) for place, number in enumerate(numbers)]
    program += [(answer, 0, 0, 0x7FFF0000), (answer, 0, 0, 0x7FF00000)]  # allow, trace
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    shape = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    no_new_privileges, seccomp, by_filter = 38, 22, 2
    if _libc.prctl(no_new_privileges, 1, 0, 0, 0):
        return False
    return _libc.prctl(seccomp, by_filter, ctypes.create_string_buffer(shape)) == 0
