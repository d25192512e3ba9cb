"""Exact figures on MovieLens; they need the folder named by RECVAE_TEST_DATA."""

import numpy as np
import pytest

from data_prep import prepare
from recvae.errors import InputError

pytestmark = pytest.mark.realdata


def test_ml_1m(real_data):
    data = prepare("ml-1m", source=real_data / "ml-1m")
    data.verify()
    counts = data.manifest["counts"]
    assert counts["users"] == {"train": 4834, "validation": 600, "test": 600}
    assert (counts["clicks"]["train"], counts["items"]) == (462_827, 3_497)
    before = data.manifest["before_split"]
    assert (before["clicks"], before["users"]) == (575_272, 6_034)
    titles = dict(zip(data.item_ids, data.item_titles, strict=True))
    assert titles["1"] == "Toy Story (1995)"
    assert (data.item_titles != "").all()
    assert data.item_tags["1"] == ("Animation", "Children's", "Comedy")
    assert data.user_tags["1"] == {"gender": "F", "age": "1", "occupation": "10", "zip_code": "48067"}


def test_ml_1m_popularity_gives_the_published_figures(real_data):
    data = prepare("ml-1m", source=real_data / "ml-1m")
    scores = np.tile(data.train.sum(axis=0), (600, 1))
    scores[data.test_in.toarray() > 0] = -np.inf
    hits = np.take_along_axis(data.test_out.toarray() > 0, np.argsort(-scores, axis=1, kind="stable"), axis=1)
    held_out = np.diff(data.test_out.indptr)
    hits, held_out = hits[held_out > 0], held_out[held_out > 0]
    for k, expected in ((20, 0.1759), (50, 0.2372)):
        assert (hits[:, :k].sum(axis=1) / np.minimum(k, held_out)).mean() == pytest.approx(expected, abs=5e-5)
    discount = 1 / np.log2(np.arange(2, 102))
    ideal = np.cumsum(discount)[np.minimum(100, held_out) - 1]
    assert (hits[:, :100] @ discount / ideal).mean() == pytest.approx(0.2235, abs=5e-5)


def test_ml_100k(real_data):
    data = prepare("ml-100k", source=real_data / "ml-100k")
    data.verify()
    before, counts = data.manifest["before_split"], data.manifest["counts"]
    assert (before["clicks"], before["users"]) == (55_361, 938)
    assert (counts["clicks"]["train"], counts["items"]) == (43_606, 1_415)
    assert counts["users"] == {"train": 738, "validation": 100, "test": 100}
    assert (data.item_titles != "").all()
    for split in ("random", "last-out", "temporal"):
        prepare("ml-100k", source=real_data / "ml-100k", split=split).verify()


def test_ml_1m_here_has_no_times(real_data):
    with pytest.raises(InputError, match="has no column 'timestamp'; it has userId, movieId, rating"):
        prepare("ml-1m", source=real_data / "ml-1m", split="temporal")
