import numpy as np
import pytest

from data_prep import ml20m_shape, planted_scores, sample
from data_prep.matrices import check_matrix
from recvae.errors import FormatError, InputError


def ndcg_at_10(scores, shown, hidden):
    scores = np.where(shown.toarray() > 0, -np.inf, scores)
    wanted = hidden.toarray() > 0
    hits = np.take_along_axis(wanted, np.argsort(-scores, axis=1, kind="stable")[:, :10], axis=1)
    discount = 1 / np.log2(np.arange(2, 12))
    n = wanted.sum(axis=1)
    ideal = np.cumsum(discount)[np.minimum(n, 10) - 1]
    return float((hits @ discount / ideal)[n > 0].mean())


@pytest.fixture(scope="module")
def drawn():
    made = sample(7)
    return made, made.dataset()


def test_sample_has_the_stated_shape(drawn):
    made, data = drawn
    assert (made.interactions.n_users, made.interactions.n_items) == (2000, 500)
    assert made.interactions.without_duplicates()[1] == 0
    assert made.interactions.user_counts().min() >= 8
    assert len(set(made.titles.values())) == 500
    assert any("," in title for title in made.titles.values())
    assert {tags[0] for tags in made.tags.values()} == {tags[0] for tags in data.item_tags.values()}
    assert np.allclose(made.mix.sum(axis=1), 1)
    assert np.allclose(made.taste.sum(axis=1), 1)
    assert set(np.count_nonzero(made.mix, axis=1)) == {1, 2, 3}
    popularity = np.sort(made.interactions.item_counts())[::-1]
    assert popularity[:50].sum() > 0.3 * popularity.sum()
    assert data.manifest["counts"]["users"] == {"train": 1600, "validation": 200, "test": 200}
    data.verify()


def test_sample_can_be_learned_and_popularity_is_no_answer(drawn):
    _, data = drawn
    truth = ndcg_at_10(planted_scores(data), data.test_in, data.test_out)
    X = data.train
    popular = ndcg_at_10(np.tile(X.sum(axis=0), (200, 1)), data.test_in, data.test_out)
    inverse = np.linalg.inv((X.T @ X).toarray().astype(float) + 200 * np.eye(data.n_items))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    learned = ndcg_at_10(data.test_in @ weights, data.test_in, data.test_out)
    assert truth > learned > 0.88 * truth
    assert learned > 2.5 * popular


def test_sample_is_a_function_of_its_seed(drawn):
    made, _ = drawn
    again, other = sample(7), sample(8)
    assert (again.interactions.item == made.interactions.item).all()
    assert again.titles == made.titles
    assert len(other.interactions) != len(made.interactions)
    # A frozen fact: another result for this seed needs another GENERATOR_VERSION.
    assert len(sample().interactions) == 45_716


def test_planted_scores_need_the_sample(drawn, tmp_path):
    made, data = drawn
    data.save(tmp_path / "d")
    loaded = type(data).load(tmp_path / "d")
    assert (
        planted_scores(loaded, "validation") == made.planted_scores(data.user_ids("validation"), data.item_ids)
    ).all()
    assert planted_scores(loaded).dtype == np.float32
    loaded.manifest["source"]["generator"] = 99
    with pytest.raises(FormatError, match="another version of the generator"):
        planted_scores(loaded)
    loaded.manifest["source"]["kind"] = "file"
    with pytest.raises(InputError, match="synthetic sample only"):
        planted_scores(loaded)


def test_ml20m_shape_small():
    X = ml20m_shape(3, users=3000, items=800, clicks=120_000)
    X.has_canonical_format = False
    check_matrix("X", X)
    assert X.shape == (3000, 800)
    assert X.nnz == 120_000
    activity, popularity = np.diff(X.indptr), np.bincount(X.indices, minlength=800)
    assert activity.min() >= 5
    assert activity.mean() > 1.3 * np.median(activity)
    assert np.sort(popularity)[::-1][:80].sum() > 0.4 * X.nnz
    assert (ml20m_shape(3, users=3000, items=800, clicks=120_000) != X).nnz == 0
    assert (ml20m_shape(4, users=3000, items=800, clicks=120_000) != X).nnz > 0


@pytest.mark.parametrize("clicks", [500, 20_000, 24_900])
def test_ml20m_shape_sparse_and_crowded(clicks):
    X = ml20m_shape(0, users=100, items=1000 if clicks < 24_900 else 996, clicks=clicks)
    check_matrix("X", X)
    assert X.nnz == clicks


@pytest.mark.parametrize("sizes", [{"users": 0}, {"items": 5}, {"clicks": 10}, {"clicks": 10**12}, {"seed": -1}])
def test_ml20m_shape_refuses_what_cannot_be(sizes):
    with pytest.raises(InputError):
        ml20m_shape(**({"users": 100, "items": 100, "clicks": 1000} | sizes))
