"""What a person does on the page, step by step, for its tests."""

import time
from contextlib import contextmanager

from recvae import Query
from recvae.recommender import load

SCRIPT = "<script>document.title='broken'</script> (1999)"
SCRIPTED = "4"  # the id of the item of that title
LIKED = ("60", "70", "11")
ROWS = "#rows .row"
DOCUMENT = "document.documentElement"


def address(*items, **more):
    """Return what follows the page's address, for a history and other fields."""
    fields = [("item", item) for item in items]
    for name, value in more.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        fields += [(name.replace("_", "-"), each) for each in values]
    return "#" + "&".join(f"{name}={value}" for name, value in fields)


@contextmanager
def new_list(page):
    """Wait until the list has answered what the body does."""
    with page.expect_response(lambda answer: answer.url.endswith("/recommend")):
        yield
    settled(page)


def until(page, expression, seconds=5):
    """Wait until an expression is true; Playwright's own way to wait for one is eval, which the policy forbids."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        page.wait_for_timeout(20)


def settled(page):
    """Wait until the page has shown what the service answered, and nothing moves."""
    until(page, "!document.querySelector('#page.busy')")
    until(page, "document.getAnimations().every((one) => one.playState !== 'running')")


def shown(page, rows=ROWS):
    """Return the ids of a list's rows."""
    return page.locator(rows).evaluate_all("rows => rows.map(row => row.dataset.id)")


def choose(page, text):
    page.fill("#search", text)
    page.wait_for_selector("#found:not([hidden]) [role=option]")
    with new_list(page):
        page.keyboard.press("Enter")


def recommended(runs, name, histories, k=10, **more):
    """Return what the library recommends."""
    model = load(runs[name], device="cpu")
    answer = model.answer(Query(model.encode([list(histories)])[0], k, **more))
    return [model.items.ids[column] for column in answer.ids[0] if column >= 0]


def focused(page):
    return page.evaluate("[document.activeElement.id, document.activeElement.getAttribute('aria-label')]")


def tab_to(page, what, most=60):
    """Press Tab until the element is focused; each stop must be visible and have a ring."""
    for _ in range(most):
        page.keyboard.press("Tab")
        ring = "getComputedStyle(document.activeElement).outlineStyle"
        assert page.evaluate(f"document.activeElement === document.body || {ring} !== 'none'"), focused(page)
        if page.evaluate(f"document.activeElement.matches({what!r})"):
            return
    raise AssertionError(f"Tab does not reach {what}")
