"""Functions in processes of their own: what they give back, what they say meanwhile, and how they end."""

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from recvae.errors import InputError
from recvae.experiments.jobs import Failure, in_a_process


def job(send, kind, *, value=0):
    if kind == "die":
        os._exit(3)
    if kind == "bad input":
        raise InputError("There is no such thing.")
    if kind == "bug":
        raise KeyError("oops")
    send("line", kind, value)
    return os.getpid(), value + 1


def test_a_result_and_what_is_said_meanwhile():
    heard = []
    pid, value = in_a_process(job, {"line": lambda *values: heard.append(values)}, "well", value=4)
    assert value == 5
    assert pid != os.getpid()
    assert heard == [("well", 4)]


def test_failures_are_sentences_also_of_several_at_a_time():
    with ThreadPoolExecutor(3) as threads:
        kinds = ("die", "bad input", "bug")
        dead, bad, bug = threads.map(lambda kind: in_a_process(job, {}, kind), kinds)
    assert dead == Failure("Its process ended with status 3 and without a result.")
    assert bad.sentence == "There is no such thing."
    assert bug.sentence == "KeyError: 'oops'"
    assert "in job" in bug.traceback


def test_ctrl_c_while_it_is_heard_ends_the_process():
    def stop(*values):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_a_process(job, {"line": stop}, "well")
    assert multiprocessing.active_children() == []
