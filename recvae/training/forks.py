"""A process that is forked after a model was used computes on one thread, since its other threads are gone.

A fork copies the thread that asks for it and no other. GNU's OpenMP, which torch and implicit run on, goes on believing
in the threads that the parent process had: the next parallel region waits for them for ever. With one thread there is
no such region. Servers that load a model and fork their workers, and notebooks with multiprocessing, depend on this.
"""

import os
from collections.abc import Callable
from functools import cache

import torch


@cache
def expect_forks() -> None:
    """Make every process that is forked from this one from now on compute on one thread; costs nothing before."""
    after_fork(_one_thread)


def after_fork(do: Callable[[], None]) -> None:
    """Have ``do`` called in every process that is forked from this one, where the system forks."""
    if hasattr(os, "register_at_fork"):  # not on Windows, where processes are never forked
        os.register_at_fork(after_in_child=do)


def _one_thread() -> None:
    from threadpoolctl import threadpool_limits

    threadpool_limits(1, "openmp")  # of every OpenMP library that is loaded: implicit may bring its own
    torch.set_num_threads(1)
