"""Evaluation of 10,000 users from scores that are there already: ndcg@100, recall@20, recall@50.

Ours against the evaluator of the papers (NumPy) and that of irspack (C++, threaded; ``pip install irspack``). All read
the same batches of float32 scores, 500 users each, in which seen items are -inf already.
"""

from argparse import Namespace
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from benchmarks.harness import ITEMS, Contender, against, copy_bandwidth, interleaved
from data_prep import ml20m_shape
from eval import per_user_metrics
from recvae.ranking import top_k

BATCH = 500
METRICS = ("ndcg@100", "recall@20", "recall@50")
PAPERS, IRSPACK, READING = "the papers' evaluator", "irspack", "reading the scores once"

Scores = NDArray[np.float32]
Means = dict[str, float]
Parts = dict[str, list[NDArray[np.float64]]]


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


def with_held_out(batches: list[Scores], held_out: csr_array) -> Iterator[tuple[Scores, csr_array]]:
    start = 0
    for scores in batches:
        yield scores, held_out[start : start + len(scores)]
        start += len(scores)


def means(parts: Parts) -> Means:
    return {name: float(np.nanmean(np.concatenate(values))) for name, values in parts.items()}


def ours(batches: list[Scores], held_out: csr_array) -> Means:
    """One sorted list per user serves all metrics, as in ``eval.evaluate``."""
    parts: Parts = {name: [] for name in METRICS}
    for scores, clicks in with_held_out(batches, held_out):
        best, ids = top_k(torch.from_numpy(scores), min(100, scores.shape[1]))
        ids[best == -torch.inf] = -1
        for name, values in per_user_metrics(ids.numpy(), clicks, METRICS).items():
            parts[name].append(values)
    return means(parts)


def papers(batches: list[Scores], held_out: csr_array) -> Means:
    """The papers' evaluator, written from its description: each metric partitions the scores anew."""
    parts: Parts = {name: [] for name in METRICS}
    for scores, clicks in with_held_out(batches, held_out):
        parts["ndcg@100"].append(papers_ndcg(scores, clicks, 100))
        parts["recall@20"].append(papers_recall(scores, clicks, 20))
        parts["recall@50"].append(papers_recall(scores, clicks, 50))
    return means(parts)


def papers_ndcg(scores: Scores, held_out: csr_array, k: int) -> NDArray[np.float64]:
    """Partition, sort the top part, discount what is held out; the ideal is counted user by user."""
    row = np.arange(len(scores))[:, None]
    top = np.argpartition(-scores, k, axis=1)[:, :k]
    ids = top[row, np.argsort(-scores[row, top], axis=1)]
    discount = 1 / np.log2(np.arange(2, k + 2))
    gained = (held_out.toarray()[row, ids] * discount).sum(axis=1)
    ideal = np.array([discount[: min(n, k)].sum() for n in np.diff(held_out.indptr)])
    return gained / ideal


def papers_recall(scores: Scores, held_out: csr_array, k: int) -> NDArray[np.float64]:
    """Mark the top items in a boolean matrix, and count what it shares with the held-out one."""
    row = np.arange(len(scores))[:, None]
    chosen = np.zeros(scores.shape, dtype=bool)
    chosen[row, np.argpartition(-scores, k, axis=1)[:, :k]] = True
    true = held_out.toarray() > 0
    return np.logical_and(chosen, true).sum(axis=1) / np.minimum(k, true.sum(axis=1))


class FixedScores:
    """What irspack's evaluator asks of a model, without any work of its own: consecutive blocks of scores."""

    def __init__(self, batches: list[Scores], users: int) -> None:
        self.batches, self.n_users, self.n_items = batches, users, batches[0].shape[1]

    def get_score_block(self, begin: int, end: int) -> Scores:
        return self.batches[begin // BATCH][: end - begin]


def irspack(batches: list[Scores], held_out: csr_array) -> Any:
    """Return irspack's evaluation as a call, or None where it is not installed.

    Its definitions are ours where ``recall_with_cutoff`` is set. It ranks once for each cutoff and cannot leave out its
    other metrics. Its evaluator is made, and its sets of held-out items are filled, before anything is timed.
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
    model = FixedScores(batches, held_out.shape[0])

    def evaluate() -> Means:
        scores = evaluator.get_scores(model, [20, 50, 100])
        return {name: scores[name] for name in METRICS}

    return evaluate


def measure(arguments: Namespace) -> dict[str, Any]:
    shape = (1200, 2000, 30_000) if arguments.small else (10_000, ITEMS, 730_000)
    batches, held_out = make_data(*shape)
    contenders: dict[str, Contender] = {
        "ours": lambda: ours(batches, held_out),
        PAPERS: lambda: papers(batches, held_out),
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
