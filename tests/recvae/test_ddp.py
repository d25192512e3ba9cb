"""Training under torch's DistributedDataParallel is right: its averaged gradients do not stay in the kept memory."""

import pytest
import torch
from ranked import ddp
from ranked.processes import run

from recvae.nn.kernels import GradientMemory


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    run("ranked.ddp", "steps", ranks=2, folder=folder)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("reclaim", [True, False])
@pytest.mark.parametrize("name", ddp.NETWORKS)
def test_two_ranks_with_other_items_each_train_the_model_of_one_process(name, reclaim, found):
    expected = ddp.trained(name, [0, 1], wrapped=False)
    for of_rank in found:
        for key, value in of_rank[f"{name}, reclaim {reclaim}"].items():
            torch.testing.assert_close(value, expected[key], atol=1e-5, rtol=1e-4, msg=lambda m, key=key: f"{key}: {m}")


def test_a_gradient_that_somebody_wrote_to_is_cleared_whole():
    memory, table = GradientMemory(), torch.zeros(6, 2)

    def lent(*rows):
        gradient = memory.rows(table, torch.tensor(rows))
        gradient[list(rows)] = 1.0
        memory.written()
        return gradient

    lent(1, 2)[4] = 7.0  # as a sum over processes does
    memory.reclaim()
    assert lent(3).tolist() == [[0, 0], [0, 0], [0, 0], [1, 1], [0, 0], [0, 0]]
    memory.reclaim()
    assert lent(0).sum() == 2
