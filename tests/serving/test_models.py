"""Lists over HTTP, alone and in batches, are the lists of ``model.answer``: every model, with rules and conditions."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from serving_models import NAMES, assert_same, fitted, plainly, random_question
from serving_process import here


@pytest.mark.parametrize(
    ("name", "count"), [("recvae", 20), *(pytest.param(name, 200, marks=pytest.mark.slow) for name in NAMES)]
)
def test_lists_over_http_are_those_of_python(name, count, tmp_path):
    model = fitted(name)
    model.save(tmp_path / "run")
    rng = np.random.default_rng(5)
    questions = [random_question(model, rng) for _ in range(count)]
    expected = [plainly(model, asked) for asked in questions]
    with here({"films": tmp_path / "run"}) as service, service.client() as client:

        def ask(asked):
            answer = client.post("/v1/recommend", json=asked)
            assert answer.status_code == 200, answer.text
            return answer.json()

        alone = [ask(asked) for asked in questions]
        with ThreadPoolExecutor(8) as pool:  # ranked together, as they come
            together = list(pool.map(ask, questions))
        batches = []
        for start in range(0, count, 50):
            answer = client.post("/v1/models/films/recommend/batch", json={"queries": questions[start : start + 50]})
            batches += answer.json()["answers"]
    for answers in (alone, together, batches):
        for asked, answer, one in zip(questions, answers, expected, strict=True):
            assert answer["unknown"] == [], asked
            assert_same(answer, one)


def test_similar_items_over_http_are_those_of_python(tmp_path):
    model = fitted("ease")
    model.save(tmp_path / "run")
    with here({"films": tmp_path / "run"}) as service, service.client() as client:
        for column in range(0, 60, 7):
            ids, scores = model.similar_items(column, 5, deny=[3, 4])
            asked = {"item": model.items.ids[column], "k": 5, "deny": ["003", "004"]}
            answer = client.post("/v1/similar", json=asked).json()
            assert [item["item"] for item in answer["items"]] == [model.items.ids[i] for i in ids[0]]
            assert [item["score"] for item in answer["items"]] == pytest.approx(scores[0].tolist(), rel=1e-6)
            assert answer["item"]["title"] == model.items.titles[column]
