"""Every registered model, used on two threads, then in a forked process. Run as a program, it fails on a hang."""

import os
import signal
import sys
import time

import numpy as np
import torch
from conftest import random_clicks
from quick_models import quick

from recvae.errors import WorkError
from recvae.registry import MODELS

PATIENCE = 40  # seconds for what takes one of them


def in_a_fork(work):
    """Return the exit status of a forked process that does ``work``; None where it does not end."""
    child = os.fork()
    if not child:
        status = 1
        try:
            status = 0 if work() else 2
        finally:
            os._exit(status)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def main():
    torch.set_num_threads(2)  # after conftest, which sets one
    clicks = random_clicks(100, 600, 0.03)
    wrong = []
    for name in MODELS:
        model = quick(name).fit(clicks)
        expected = model.recommend(clicks, 20)

        def the_same(model=model, expected=expected):
            ids, scores = model.recommend(clicks, 20)
            return (ids == expected.ids).mean() > 0.99 and np.allclose(scores, expected.scores, rtol=1e-4, atol=1e-5)

        def trained(name=name):
            return quick(name).fit(clicks).n_items == 600

        for label, work in (("recommend", the_same), ("fit", trained)):
            status = in_a_fork(work)
            if status != 0:
                wrong.append(f"{name}, {label}: {'hangs' if status is None else status}")
                break
        if torch.get_num_threads() != 2:
            wrong.append(f"{name}: the parent has {torch.get_num_threads()} threads")

    def on_a_device():
        model.device = torch.device("cuda")
        try:
            model.recommend(clicks)
        except WorkError as error:
            return "spawn" in str(error)
        return False

    if in_a_fork(on_a_device) != 0:
        wrong.append("a model on a CUDA device")
    sys.stdout.write("\n".join(wrong))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
