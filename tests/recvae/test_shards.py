"""A catalogue in parts: several processes train the network that one process trains."""

import numpy as np
import pytest
import torch
from ranked import equal
from ranked.processes import run

from recvae.errors import InputError
from recvae.models.vamp import init_he
from recvae.nn.layers import Parts, init_fan_in, init_xavier
from recvae.nn.shards import BLOCK, Shard, draw
from recvae.queries import Query
from recvae.ranking.held import rank_held
from recvae.ranking.lists import rank
from recvae.training.tensor_files import fill_tensors, stream_tensors
from recvae.training.tensors import Expected


class Part(Shard):
    """Some items of a process that is alone."""

    sum = shared = largest = beside = None


@pytest.mark.parametrize("n_items", [5, 40, BLOCK // 64 * 2 + 3])
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_a_part_of_a_table_is_drawn_as_in_the_whole(n_items, dim, kind):
    def fill(g):
        return lambda t: t.uniform_(-1, 1, generator=g) if kind == "uniform" else t.normal_(0.1, 2, generator=g)

    shape = (n_items, 64) if dim == 0 else (70, n_items)
    table, generators = torch.empty(shape), [torch.Generator().manual_seed(2) for _ in range(2)]
    fill(generators[0])(table)
    columns = torch.randperm(n_items, generator=torch.Generator().manual_seed(1))[: n_items // 2 + 1]
    part = torch.empty((len(columns), 64) if dim == 0 else (70, len(columns)))
    draw(part, fill(generators[1]), Part(columns, n_items, len(columns)), dim=dim)
    assert torch.equal(part, table.index_select(dim, columns))
    assert torch.equal(*(g.get_state() for g in generators))  # and what follows is the same too


@pytest.mark.parametrize("init", [init_xavier, init_fan_in, init_he])
def test_a_layer_of_some_items_begins_as_in_the_whole(init):
    columns = torch.tensor([7, 2, 30, 11])
    part = Part(columns, 33, 4)
    whole, here = (torch.empty(33, 6), torch.empty(33)), (torch.empty(4, 6), torch.empty(4))
    init(*whole, 6, torch.Generator().manual_seed(1))
    init(*here, 6, torch.Generator().manual_seed(1), Parts(part, part))
    assert torch.equal(here[0], whole[0][columns])
    assert torch.equal(here[1], whole[1][columns])


def compare(found, cases, name, data_parallel=1, **options):
    columns, results = [part for part, _ in found], [of_rank[name] for _, of_rank in found]
    losses, weights, _ = equal.trained(cases, name, **options)
    parts = len(found) // data_parallel
    for place, result in enumerate(results[parts:], parts):  # replicas agree to the bit
        for mine, first in zip(result, results[place % parts], strict=True):
            assert all(torch.equal(value, first[1][key]) for key, value in mine[1].items())
    columns, results = columns[:parts], [*results[:parts]]
    assert losses == [
        {
            phase: {key: pytest.approx(value, rel=1e-10, abs=1e-12) for key, value in of.items()}
            for phase, of in epoch.items()
        }
        for epoch in results[0][0][0]
    ]
    assert all(of_rank[0][0] == results[0][0][0] for of_rank in results)  # ranks agree to the bit
    for key, value in weights.items():
        of_ranks = equal.whole([of_rank[0] for of_rank in results], columns, key)
        torch.testing.assert_close(of_ranks, value, atol=1e-10, rtol=0, msg=lambda m, key=key: f"{key}: {m}")
    losses, gradients, _ = equal.of_one_step(cases, name)
    assert results[0][1][0] == pytest.approx(losses, rel=1e-5)
    for key, value in gradients.items():
        of_ranks = equal.whole([of_rank[1] for of_rank in results], columns, key)
        close = 1e-5 * max(1.0, float(value.abs().max()))
        torch.testing.assert_close(of_ranks, value, atol=close, rtol=0, msg=lambda m, key=key: f"{key}: {m}")


@pytest.fixture(scope="module")
def folder_of_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    run("ranked.equal", "few", ranks=2, folder=folder)
    return folder


@pytest.fixture(scope="module")
def of_two(folder_of_two):
    return [torch.load(folder_of_two / f"{rank}-1.pt") for rank in range(2)]


def test_two_processes_make_the_lists_of_one_ties_included(folder_of_two):
    data = equal.matrix()
    for of_rank in (torch.load(folder_of_two / f"lists-{n}.pt") for n in range(2)):
        asked = ((words, rows) for words in equal.QUERIES for rows in (data, data[:2]))
        for (words, rows), (ids, scores) in zip(asked, of_rank, strict=True):
            answer = rank(equal.scores_with_ties, Query(rows, **words))
            assert ids.tolist() == answer.ids.tolist()
            assert scores.tolist() == answer.scores.tolist()


def test_rules_are_refused():
    query = Query(equal.matrix(), k=3, deny=np.array([2]))
    with pytest.raises(InputError, match="Several processes rank without allow, deny, tags, diversity and reasons"):
        rank_held(lambda part: None, query, Part(torch.arange(3), equal.ITEMS, 3))


def test_a_file_written_some_rows_at_a_time_has_the_bytes_of_one_written_whole(tmp_path):
    g = torch.Generator().manual_seed(1)
    tensors = {
        "b.weight": torch.randn(7, 3, generator=g),
        "a": torch.randn(5, generator=g),
        "step": torch.tensor(2.0),
        "order": torch.arange(4),
        "noise": torch.arange(9, dtype=torch.uint8),
    }
    facts = {"model": 'a "name"', "title": "é"}
    fill_tensors(tmp_path / "whole", tmp_path / "whole", tensors, facts)

    def blocks(name):
        value = tensors[name]
        return iter([value] if value.dim() == 0 else value.split(2))

    forms = {name: Expected(tuple(value.shape), value.dtype) for name, value in tensors.items()}
    stream_tensors(tmp_path / "rows", tmp_path / "rows", forms, blocks, facts)
    assert (tmp_path / "rows").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("name", equal.FEW)
def test_two_processes_train_the_network_of_one(name, of_two):
    compare(of_two, equal.FEW, name)


@pytest.fixture(scope="module", params=[2, 4])
def of_many(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    run("ranked.equal", "every", ranks=request.param, folder=folder, seconds=900)
    return [torch.load(folder / f"{rank}-1.pt") for rank in range(request.param)]


@pytest.mark.slow
@pytest.mark.parametrize("name", equal.EVERY)
def test_two_and_four_processes_train_every_network_of_one(name, of_many):
    compare(of_many, equal.EVERY, name)


@pytest.fixture(scope="module")
def of_two_replicas(folder_of_two):
    return [torch.load(folder_of_two / f"{rank}-2.pt") for rank in range(2)]


@pytest.mark.parametrize("name", equal.FEW)
def test_two_processes_with_some_users_of_each_batch_train_the_network_of_one(name, of_two_replicas):
    compare(of_two_replicas, equal.FEW, name, 2, train_options=equal.UNEVEN)


@pytest.fixture(scope="module", params=[("every_of_two", 2), ("every_of_four", 4)])
def of_a_table(request, tmp_path_factory):
    name, data_parallel = request.param
    folder = tmp_path_factory.mktemp("table")
    run("ranked.equal", name, ranks=4, folder=folder, seconds=900)
    return data_parallel, [torch.load(folder / f"{rank}-{data_parallel}.pt") for rank in range(4)]


@pytest.mark.slow
@pytest.mark.parametrize("name", equal.EVERY)
def test_four_processes_with_some_users_train_every_network_of_one(name, of_a_table):
    data_parallel, found = of_a_table
    compare(found, equal.EVERY, name, data_parallel, train_options=equal.UNEVEN)
