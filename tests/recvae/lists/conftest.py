"""A model whose lists are made part by part, and parts in small pieces."""

import pytest
from listed import BOARD, ITEMS, TAGS

import recvae
from recvae.serving.lists import ordered, parts, users


@pytest.fixture(scope="module")
def model():
    return recvae.EASE().fit(BOARD, item_ids=ITEMS, item_tags=TAGS)


@pytest.fixture
def little(monkeypatch):
    """Pieces and batches so small that every part has several of each."""
    for name, value in {"ROWS": 50, "USERS": 7, "ENTRIES": 90, "BLOCK": 400}.items():
        for module in (parts, ordered, users):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)
