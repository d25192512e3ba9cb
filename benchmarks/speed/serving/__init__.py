"""From a history to a list: by models in this process, one request at a time, and over HTTP under load."""

from argparse import Namespace
from typing import Any


def measure(arguments: Namespace) -> dict[str, Any]:
    from benchmarks.speed.serving import in_process, load  # now: the peers' processes need neither torch nor these

    found = in_process.measure(arguments)
    return found | {"load": load.measure(arguments)}
