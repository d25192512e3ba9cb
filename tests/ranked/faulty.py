"""The command line in a process of torchrun, with a fault: RECVAE_FAULT is KIND:UPDATE, such as kill:7.

``kill``: process 1 is killed after that update, the first time it comes there. ``nan``: a weight of process 1 becomes
NaN.
``full``: no file of process 0 may be longer than a few bytes from that update on.

The moment of the fault is written into the file RECVAE_FAULT_TIME.
"""

import os
import resource
import signal
import sys
import time
from pathlib import Path

import torch

from recvae.cli import main
from recvae.training import loop

KIND, _, UPDATE = os.environ.get("RECVAE_FAULT", "none:0").partition(":")
RANK = int(os.environ["RANK"])
update = loop._Loop._update


def with_fault(self, phase, batch):
    """Make the fault after the update."""
    found = update(self, phase, batch)
    if self.step == int(UPDATE):
        if (0 if KIND == "full" else 1) == RANK and (moment := os.environ.get("RECVAE_FAULT_TIME")):
            Path(moment).write_text(str(time.time()))
        once = os.environ.get("RECVAE_FAULT_ONCE")
        if KIND == "kill" and RANK == 1 and not (once and Path(once).exists()):
            if once:
                Path(once).write_text("killed\n")
            os.kill(os.getpid(), signal.SIGKILL)
        if KIND == "nan" and RANK == 1:
            with torch.no_grad():
                self.network.output.weight[0] = torch.nan
        if KIND == "full" and RANK == 0:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    return found


loop._Loop._update = with_fault

if __name__ == "__main__":
    sys.exit(main())
