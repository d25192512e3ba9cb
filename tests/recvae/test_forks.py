"""Processes that are forked after a model was used, and threads that use one model at the same time."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import forked_models
import numpy as np
import pytest
from conftest import checkerboard, random_clicks
from threadpoolctl import OpenBLASController, threadpool_info, threadpool_limits

import recvae
from recvae.baselines import als


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
@pytest.mark.slow
def test_every_model_works_in_a_forked_process():
    """In a process of its own, on two threads: with the one thread of the tests nothing would hang."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": "2",
        "OMP_WAIT_POLICY": "passive",
    }
    command = [sys.executable, Path(forked_models.__file__)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def blas_threads():
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_concurrent_uses_of_als_leave_blas_as_it_was():
    """Two that overlap: the second one saw the first one's limit, and put that back once the first one was done."""
    model = recvae.ImplicitALS(factors=4, iterations=2).fit(checkerboard())
    threadpool_limits(2, "blas")
    OpenBLASController.clear_controlling_thread(force=True)  # or this thread alone could set limits
    before, seen = blas_threads(), []
    first_in, second_in, first_out = threading.Event(), threading.Event(), threading.Event()

    def first():
        with als.one_blas_thread():
            first_in.set()
            second_in.wait(30)
            seen.append(blas_threads())
        first_out.set()

    def second():
        first_in.wait(30)
        with als.one_blas_thread():
            second_in.set()
            first_out.wait(30)

    try:
        run(first, second)
        assert seen == [{1}]
        assert blas_threads() == before == {2}
        expected, answers = model.recommend(random_clicks(30, 40, 0.2), 5), []
        run(*[lambda: answers.append(model.recommend(random_clicks(30, 40, 0.2), 5))] * 4)
        assert len(answers) == 4
        for _, scores in answers:
            np.testing.assert_allclose(scores, expected.scores, rtol=1e-5, atol=1e-6)
        assert blas_threads() == before
    finally:
        threadpool_limits(1, "blas")


def run(*functions):
    """Call functions on a thread each, and wait for all."""
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
