"""The machine and the versions that a measurement was made on."""

import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from recvae.files import JsonObject

if TYPE_CHECKING:
    pass


_PACKAGES = ("recvae", "torch", "numpy", "scipy", "pandas", "pyarrow", "implicit", "threadpoolctl")


def environment() -> JsonObject:
    """Return the circumstances of a timing: date, Python, platform, CPU, cores, memory, versions of packages.

    ``date`` is UTC, ISO 8601; ``cores``: the number that this process may use; ``threads``: torch's number, if torch is
    loaded; ``memory_gb`` in 10^9 bytes, None where unknown. No package is imported for its version, and packages that
    are not installed are left out.
    """
    torch = sys.modules.get("torch")
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": _cores(),
        "memory_gb": _memory_gb(),
        **({} if torch is None else {"threads": torch.get_num_threads()}),
        "versions": versions,
    }


def _cpu_name() -> str:
    """Return the CPU's model: on Linux from a file, elsewhere from Python."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _cores() -> int:
    """Return the number of cores that this process may use; all where the system does not say."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_gb() -> float | None:
    """Return the physical memory in 10^9 bytes, None where the system does not say."""
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return None
    return round(size / 1e9, 1)
