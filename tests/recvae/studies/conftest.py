"""What the tests of the search share: its data, one whole study, and no figures."""

import pytest
from small_studies import TRIALS, small_plan

from data_prep.dataset import Dataset
from recvae.experiments import study as studies
from recvae.experiments.tune import tune


@pytest.fixture(scope="module")
def data(dataset) -> Dataset:
    return Dataset.load(dataset)


@pytest.fixture(autouse=True, scope="module")
def no_figures():
    """Drawing takes longer than these searches; the figure has a test of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(studies, "find_spec", lambda name: None)
        yield


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """An uninterrupted study."""
    return tune(small_plan(), data, tmp_path_factory.mktemp("studies") / "whole", trials=TRIALS)
