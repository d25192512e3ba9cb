"""Models that 'recvae export' wrote answer, over HTTP and by Query, as torch does through the same questions."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from serving_models import IDS, NAMES, assert_same, fitted, plainly, random_question
from serving_process import here

from recvae.errors import InputError
from recvae.serving import onnx_runtime


@pytest.mark.parametrize(
    ("name", "count"), [("recvae", 20), *(pytest.param(name, 200, marks=pytest.mark.slow) for name in NAMES)]
)
def test_lists_of_an_export_are_those_of_its_run(cli, name, count, tmp_path):
    model = fitted(name)
    model.save(tmp_path / "run")
    done = cli("export", tmp_path / "run", "--out", tmp_path / "export", "--threads", 1)
    assert done.status == 0, done.err
    rng = np.random.default_rng(5)
    questions = [random_question(model, rng) for _ in range(count)]
    if name == "implicit-als":  # the items of each half are so alike here that rounding decides which one is less so
        for asked in questions:
            asked.pop("diversity", None)
    expected = [plainly(model, asked) for asked in questions]
    with here({"films": tmp_path / "export"}) as service, service.client() as client:

        def ask(asked):
            answer = client.post("/v1/recommend", json=asked)
            assert answer.status_code == 200, answer.text
            return answer.json()

        alone = [ask(asked) for asked in questions]
        with ThreadPoolExecutor(8) as pool:  # ranked together, as they come
            together = list(pool.map(ask, questions))
        about = client.get("/v1/model").json()
    for answers in (alone, together):
        for answer, one in zip(answers, expected, strict=True):
            assert_same(answer, one)
    assert (about["title"], about["conditions"]) == (model.title, list(model.condition_names))
    assert about["ratings"] == model.of_ratings
    exported = onnx_runtime.load(tmp_path / "export")
    theirs, ours = similar_items(model), similar_items(exported)
    assert about["similar"] == (not isinstance(theirs, str))
    if isinstance(theirs, str):
        assert ours == theirs
    else:
        np.testing.assert_allclose(ours.scores, theirs.scores, rtol=1e-5, atol=1e-5)
    assert exported.items.ids == IDS


def similar_items(model):
    """The items like two others, or the sentence of a model that does not know any."""
    try:
        return model.similar_items([3, 40], 7)
    except InputError as error:
        return str(error)
