"""What the tests of the page share: run folders, a service that serves them, and Chromium."""

import pytest
from browser import chromium, serving
from page_steps import SCRIPT, SCRIPTED

from data_prep import sample
from recvae import EASE, VAEAC, ConditionalVAE, Popularity


@pytest.fixture(scope="module")
def data():
    return sample().dataset()


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """Run folders by name: of clicks with titles and tags, without titles, of ratings, and under conditions."""
    folder = tmp_path_factory.mktemp("runs")
    titles = list(data.item_titles)
    titles[list(data.item_ids).index(SCRIPTED)] = SCRIPT
    ratings = data.train.copy()
    ratings.data[:] = 1 + (ratings.indices + 2 * ratings.indptr[1]) % 5
    short = {"epochs": 2, "batch_size": 200, "device": "cpu"}
    EASE().fit(data.train, item_ids=data.item_ids, titles=titles, item_tags=data.item_tags).save(folder / "films")
    Popularity().fit(data.train, item_ids=data.item_ids).save(folder / "ids")
    VAEAC(ratings=True, hidden=12, latent=6, **short).fit(ratings, item_ids=data.item_ids, titles=titles).save(
        folder / "rated"
    )
    ConditionalVAE(hidden=(24,), latent=8, **short).fit(
        data.train, item_ids=data.item_ids, titles=titles, item_tags=data.item_tags
    ).save(folder / "moods")
    return {name: folder / name for name in ("films", "ids", "rated", "moods")}


@pytest.fixture(scope="module")
def service(runs):
    with serving(*(f"{name}={folder}" for name, folder in runs.items()), options=["--device", "cpu"]) as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture
def visit(browser, service):
    """Open the page; no visit may log an error, break the policy, or ask another host."""
    wrong, contexts = [], []

    def opened(after="", *, width=1200, scheme="light", motion="no-preference", url=None, forgive=(), context=None):
        base = url or service.url
        if context is None:
            size = {"width": width, "height": 800}
            context = browser.new_context(viewport=size, color_scheme=scheme, reduced_motion=motion)
            contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(5000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "console",
            lambda line: (
                line.type in ("error", "warning")
                and not any(part in line.text for part in forgive)
                and wrong.append(line.text)
            ),
        )
        page.on("request", lambda call: call.url.startswith((base, "data:")) or wrong.append(call.url))
        page.goto(f"{base}/{after}")
        page.wait_for_selector("body.ready")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []
