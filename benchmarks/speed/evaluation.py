"""Evaluation of 10,000 users from scores that are there already: ours, the papers' evaluator, irspack's."""

from argparse import Namespace
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from benchmarks.harness import ITEMS, Contender, against, copy_bandwidth, interleaved
from data_prep import ml20m_shape
from eval import per_user_metrics
from recvae.ranking.selection import top_k

BATCH = 500
METRICS = ("ndcg@100", "recall@20", "recall@50")
PAPERS, IRSPACK, READING = "the papers' evaluator", "irspack", "reading the scores once"

Scores = NDArray[np.float32]
Values = NDArray[np.float64]  # of one metric, by user
Means = dict[str, float]


def make_data(users: int, items: int, clicks: int) -> tuple[list[Scores], csr_array]:
    """Return batches of scores (b, items) and the held-out clicks, a fifth of each user's.

    No two scores of a user are equal, since NumPy's partition would order equal ones by chance: even numbers, shuffled,
    and held-out items raised by an odd one, so that some of them are found.
    """
    matrix = ml20m_shape(users=users, items=items, clicks=clicks)
    row = np.repeat(np.arange(users), np.diff(matrix.indptr))
    out = (np.arange(matrix.nnz) - matrix.indptr[row]) % 5 == 0
    held_out, seen = (
        csr_array((matrix.data[part], (row[part], matrix.indices[part])), shape=matrix.shape) for part in (out, ~out)
    )
    rng = np.random.default_rng(0)
    batches = []
    for start in range(0, users, BATCH):
        rows = slice(start, min(users, start + BATCH))
        scores = np.tile(np.arange(0, 2 * items, 2, dtype=np.float32), (rows.stop - start, 1))
        rng.permuted(scores, axis=1, out=scores)
        scores[held_out[rows].nonzero()] += 2 * (items // 6) + 1
        scores[seen[rows].nonzero()] = -np.inf
        batches.append(scores)
    return batches, held_out


def ours(scores: Scores, clicks: csr_array) -> dict[str, Values]:
    """One sorted list per user serves all metrics, as in ``eval.evaluate``."""
    best, ids = top_k(torch.from_numpy(scores), min(100, scores.shape[1]))
    ids[best == -torch.inf] = -1
    return per_user_metrics(ids.numpy(), clicks, METRICS)


def papers(scores: Scores, clicks: csr_array) -> dict[str, Values]:
    """The papers' evaluator, written from its description: each metric partitions the scores anew."""
    values = papers_ndcg(scores, clicks, 100), papers_recall(scores, clicks, 20), papers_recall(scores, clicks, 50)
    return dict(zip(METRICS, values, strict=True))


def means(evaluate: Callable[[Scores, csr_array], dict[str, Values]], batches: list[Scores], held_out: Any) -> Means:
    """Evaluate batch by batch."""
    parts = [evaluate(scores, held_out[n * BATCH : n * BATCH + len(scores)]) for n, scores in enumerate(batches)]
    return {name: float(np.nanmean(np.concatenate([part[name] for part in parts]))) for name in METRICS}


def papers_ndcg(scores: Scores, held_out: csr_array, k: int) -> Values:
    """Partition, sort the top part, discount what is held out; the ideal is counted user by user."""
    row = np.arange(len(scores))[:, None]
    top = np.argpartition(-scores, k, axis=1)[:, :k]
    ids = top[row, np.argsort(-scores[row, top], axis=1)]
    discount = 1 / np.log2(np.arange(2, k + 2))
    gained = (held_out.toarray()[row, ids] * discount).sum(axis=1)
    ideal = np.array([discount[: min(n, k)].sum() for n in np.diff(held_out.indptr)])
    return np.asarray(gained / ideal)


def papers_recall(scores: Scores, held_out: csr_array, k: int) -> Values:
    """Mark the top items in a boolean matrix, and count what it shares with the held-out one."""
    row = np.arange(len(scores))[:, None]
    chosen = np.zeros(scores.shape, dtype=bool)
    chosen[row, np.argpartition(-scores, k, axis=1)[:, :k]] = True
    true = held_out.toarray() > 0
    return np.asarray(np.logical_and(chosen, true).sum(axis=1) / np.minimum(k, true.sum(axis=1)))


def irspack(batches: list[Scores], held_out: csr_array) -> Any:
    """Return irspack's evaluation as a call, made ready before anything is timed; None where it is not installed.

    Its definitions are ours where ``recall_with_cutoff`` is set.
    """
    try:
        from irspack.evaluation import Evaluator
    except ImportError as error:
        print(f"irspack is left out: {error}. Install it with: pip install irspack")
        return None
    evaluator = Evaluator(
        held_out.astype(np.float64),
        masked_interactions=csr_array(held_out.shape),  # the scores are masked already
        n_threads=torch.get_num_threads(),
        recall_with_cutoff=True,
        mb_size=BATCH,
    )
    n_users, n_items = held_out.shape  # all that it asks of a model, without any work: consecutive blocks of scores

    def block(begin: int, end: int) -> Any:
        return batches[begin // BATCH][: end - begin]

    model: Any = SimpleNamespace(n_users=n_users, n_items=n_items, get_score_block=block)

    def evaluate() -> Means:
        scores = evaluator.get_scores(model, [20, 50, 100])
        return {name: scores[name] for name in METRICS}

    return evaluate


def measure(arguments: Namespace) -> dict[str, Any]:
    shape = (1200, 2000, 30_000) if arguments.small else (10_000, ITEMS, 730_000)
    batches, held_out = make_data(*shape)
    contenders: dict[str, Contender] = {
        "ours": lambda: means(ours, batches, held_out),
        PAPERS: lambda: means(papers, batches, held_out),
    }
    if (evaluate := irspack(batches, held_out)) is not None:
        contenders[IRSPACK] = evaluate
    found: dict[str, Any] = {name: run() for name, run in contenders.items()}
    for name, values in found.items():
        for metric in METRICS:
            if not abs(values[metric] - found["ours"][metric]) <= 1e-6:
                raise SystemExit(f"{metric} differs: ours is {found['ours'][metric]}, that of {name} {values[metric]}.")
    print(f"equal: {found['ours']}")
    contenders[READING] = lambda: [torch.from_numpy(scores).amax() for scores in batches]
    seconds = interleaved(contenders, arguments.rounds)
    what = f"evaluating {shape[0]:,} users"
    figures = [against(what, seconds, peer) for peer in (PAPERS, IRSPACK) if peer in seconds]
    figures.append(against(what, seconds, READING, floor=True))
    return {"figures": figures, "seconds": seconds, "ceilings": {"copy_gb_per_s": copy_bandwidth()}, "metrics": found}
