"""The ranking thread: which questions share a Query, the bounded queue, and whose mistake is whose."""

import asyncio
import threading
import time

import numpy as np
import pytest
from serving_models import IDS, fitted

from recvae.errors import InputError, WorkError
from recvae.serving.answers import alike, answered, asked
from recvae.serving.batching import Ranker
from recvae.serving.problems import Refusal
from recvae.serving.schema import Recommend, Similar
from recvae.serving.served import Served
from recvae.serving.settings import Settings

SETTINGS = Settings(runs={"films": "unused"})


class Counts:
    def __init__(self):
        self.batches, self.errors = [], []

    def ranked(self, batch, waited, seconds):
        assert len(waited) == batch
        assert min(waited) >= 0
        assert seconds >= 0
        self.batches.append(batch)

    def failed(self, error):
        self.errors.append(error)


@pytest.fixture
def model():
    return fitted("ease")


@pytest.fixture
def films(model):
    return Served("films", model, "0" * 12)


def question(films, history=("001",), **more):
    return asked(films, Recommend(history=list(history), **more), SETTINGS)


def held(model, monkeypatch):
    """Let the model wait, at its first query, until the event is set; and note the users of each query."""
    go, users, answer = threading.Event(), [], model.answer

    def slow(query):
        users.append(query.n_users)
        assert go.wait(10)
        return answer(query)

    monkeypatch.setattr(model, "answer", slow)
    return go, users


def run(body, **limits):
    """Run a coroutine function with a ranker, and return the ranker's figures."""
    counts = Counts()

    async def all_of_it():
        ranker = Ranker(asyncio.get_running_loop(), counts, **{"most_waiting": 100, "rows_at_once": 100, **limits})
        try:
            await asyncio.wait_for(body(ranker), 20)
        finally:
            await asyncio.to_thread(ranker.close, 10)
        assert ranker.waiting == 0

    asyncio.run(all_of_it())
    return counts


async def started(users):
    while not users:
        await asyncio.sleep(0.001)


def test_questions_that_wait_are_ranked_together(films, model, monkeypatch):
    go, users = held(model, monkeypatch)

    async def body(ranker):
        first = ranker.submit([question(films)])
        await started(users)
        rest = [ranker.submit([question(films, [item], k=3)])[0] for item in IDS[:20]]
        assert ranker.waiting == 21
        go.set()
        listings = await asyncio.gather(*first, *rest)
        assert [len(one.columns) for one in listings] == [10] + [3] * 20

    counts = run(body)
    assert counts.batches == [1, 20]
    assert users == [1, 20]


def test_an_idle_ranker_takes_a_question_at_once(films):
    async def body(ranker):
        for _ in range(5):
            began = time.perf_counter()
            await ranker.submit([question(films)])[0]
            assert time.perf_counter() - began < 1

    assert run(body).batches == [1] * 5


def test_a_batch_has_so_many_rows_at_most(films, model, monkeypatch):
    go, users = held(model, monkeypatch)

    async def body(ranker):
        first = ranker.submit([question(films)])
        await started(users)
        plain = ranker.submit([question(films) for _ in range(7)])
        dear = ranker.submit([question(films, IDS[:9], reasons=1) for _ in range(2)])  # 10 rows each
        go.set()
        await asyncio.gather(*first, *plain, *dear)

    assert run(body, rows_at_once=5).batches == [1, 5, 2, 1, 1]


def test_the_queue_is_bounded(films, model, monkeypatch):
    go, users = held(model, monkeypatch)

    async def body(ranker):
        futures = ranker.submit([question(films)])
        await started(users)
        futures += ranker.submit([question(films) for _ in range(3)])
        with pytest.raises(Refusal) as refused:
            ranker.submit([question(films) for _ in range(2)])
        assert refused.value.status == 503
        assert refused.value.headers == {"Retry-After": "1"}
        futures += ranker.submit([question(films)])
        go.set()
        await asyncio.gather(*futures)
        await asyncio.sleep(0)
        await asyncio.gather(*ranker.submit([question(films) for _ in range(5)]))

    run(body, most_waiting=5)


@pytest.mark.parametrize(
    ("error", "status", "failures"),
    [(InputError("This user cannot be asked for."), 422, 0), (WorkError("Scores are no numbers."), 500, 1),
     (ZeroDivisionError("a bug"), 500, 1)],
)  # fmt: skip
def test_a_mistake_is_its_own(films, model, monkeypatch, error, status, failures):
    go = threading.Event()
    answer = model.answer

    def picky(query):
        assert go.wait(10)
        if (query.histories.indices == 7).any():
            raise error
        return answer(query)

    monkeypatch.setattr(model, "answer", picky)

    async def body(ranker):
        futures = [ranker.submit([question(films, [item])])[0] for item in IDS[5:10]]
        go.set()
        results = await asyncio.gather(*futures, return_exceptions=True)
        assert [isinstance(result, Refusal) for result in results] == [False, False, True, False, False]
        assert results[2].status == status
        assert len(results[2].detail) > 10
        assert "bug" not in results[2].detail

    assert len(run(body).errors) == failures


def test_a_request_that_is_cancelled_harms_nobody(films, model, monkeypatch):
    go, users = held(model, monkeypatch)

    async def body(ranker):
        one, other = ranker.submit([question(films), question(films)])
        await started(users)
        one.cancel()
        go.set()
        assert len((await other).columns) == 10

    run(body)


RULES = [{}, {"k": 3}, {"deny": ["004", "005"]}, {"allow": IDS[10:40]}, {"allow": IDS[20:50], "deny": ["021"], "k": 2},
         {"exclude_seen": False}, {"reasons": 2}, {"reasons": 2, "k": 4}]  # fmt: skip


def test_questions_of_one_group_are_answered_as_each_alone(films):
    rng = np.random.default_rng(0)
    questions = []
    for number in range(60):
        history = [IDS[column] for column in rng.choice(60, rng.integers(0, 9), replace=False)]
        questions.append(question(films, history, **RULES[number % len(RULES)]))
    groups = {}
    for one in questions:
        groups.setdefault(one.group(), []).append(one)
    assert 4 <= len(groups) < len(RULES)  # k and deny alone part no group
    for group in groups.values():
        for one, listing in zip(group, answered(group), strict=True):
            [alone] = answered([one])
            assert listing.columns == alone.columns
            assert listing.scores == pytest.approx(alone.scores, rel=1e-6)
            assert listing.ranks == alone.ranks
            assert [[b.column for b in r] for r in listing.reasons] == [[b.column for b in r] for r in alone.reasons]
            assert len(listing.columns) <= one.k
            assert not set(listing.columns) & set(one.deny or ())


def test_similar_items_share_a_query_where_they_can(films):
    plain = [alike(films, Similar(item=item, k=4), SETTINGS) for item in IDS[:3]]
    ruled = alike(films, Similar(item="001", k=4, deny=["003"]), SETTINGS)
    assert len({one.group() for one in plain}) == 1
    assert ruled.group() not in {one.group() for one in plain}
    assert [one.columns for one in answered(plain)] == [answered([one])[0].columns for one in plain]
    assert 3 not in answered([ruled])[0].columns


def test_models_do_not_mix(films, model):
    other = Served("films", model, "1" * 12)
    assert question(films).group() != question(other).group()
