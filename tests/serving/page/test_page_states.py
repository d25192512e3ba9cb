"""The page in every state: on a phone, in the dark, by axe, at odd addresses, with other models, when calls fail."""

import time

import pytest
from browser import serving
from page_steps import (
    DOCUMENT,
    LIKED,
    ROWS,
    SCRIPT,
    SCRIPTED,
    address,
    choose,
    focused,
    new_list,
    recommended,
    settled,
    shown,
    until,
)

pytestmark = pytest.mark.slow


STATES = {
    "empty": "",
    "history": address(*LIKED, without="33", ask="heist", reasons="2"),
    "similar": address("60", similar="70"),
    "gone": address("60", "no-such-item", ask="no-such-tag"),
    "ratings": address("60", "70", model="rated", rating=["4.5", "2"]),
    "conditions": address("60", model="moods"),
    "ids": address("60", model="ids"),
}


@pytest.mark.parametrize("state", STATES)
def test_a_phone_of_360_pixels_scrolls_down_only(visit, state):
    page = visit(STATES[state], width=360)
    settled(page)
    assert page.evaluate(f"{DOCUMENT}.scrollWidth") <= 360
    if state == "history":
        page.click("summary")
        assert page.get_by_role("slider", name="Diversity").is_visible()
        assert page.evaluate(f"{DOCUMENT}.scrollWidth") <= 360
        page.fill("#search", "the")
        page.wait_for_selector("#found [role=option]")
        assert page.evaluate(f"{DOCUMENT}.scrollWidth") <= 360


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("state", STATES)
def test_axe_finds_nothing(visit, scheme, state):
    from axe_playwright_python.sync_playwright import Axe

    for width in (1200, 360):
        page = visit(STATES[state], width=width, scheme=scheme, motion="reduce")
        settled(page)
        if state == "empty":
            page.fill("#search", "the")
            page.wait_for_selector("#found [role=option]")
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        assert len(found.response["passes"]) > 20


def test_dark_is_dark(visit):
    brightness = (
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0)"
    )
    assert visit(scheme="dark").evaluate(brightness) < 150
    assert visit(scheme="light").evaluate(brightness) > 700


def test_less_motion_is_none(visit):
    page = visit(address(*LIKED), motion="reduce")
    with new_list(page):
        page.locator(f"{ROWS} [data-act=add]").first.click()
        assert page.evaluate("document.getAnimations().length") == 0
    assert page.evaluate("document.getAnimations().length") == 0


def test_a_title_is_text_and_never_html(visit):
    page = visit(address(SCRIPTED, without=SCRIPTED, similar=SCRIPTED))
    page.wait_for_selector("#similar[open]")
    assert "broken" not in page.title().split()[:1]
    assert page.inner_text("#similar-title") == f"Similar to {SCRIPT}"
    page.keyboard.press("Escape")
    choose(page, "agent")
    page.fill("#search", "<script")
    page.wait_for_selector("#found [role=option]")
    assert page.locator("#found .name").first.inner_text() == SCRIPT
    assert page.locator("#history .chip .name").first.inner_text() == SCRIPT
    assert page.locator("script").count() == 1
    assert page.title() != "broken"


def test_items_and_tags_that_are_gone_are_named(visit):
    page = visit(address("60", "gone-1", "gone-2", ask="no-such-tag"))
    assert page.inner_text("[data-kind=gone] span") == "2 items of this address are not in this model: gone-1, gone-2."
    assert page.inner_text("[data-kind=rules] span") == "This model does not have no-such-tag."
    assert len(shown(page)) == 10
    with new_list(page):
        page.locator("[data-kind=gone] button").click()
    with new_list(page):
        page.locator("[data-kind=rules] button").click()
    assert page.evaluate("location.hash") == "#item=60"
    assert page.locator(".notice").count() == 0


@pytest.mark.parametrize(
    "after",
    ["#k=ten&diversity=9&per-tag=-1&reasons=%FF&rating=x", "#item=&item=&without=", "#%%%&&&=", "#k=0", "#k=99999999"],
)
def test_an_address_of_nonsense_still_shows_a_list(visit, after):
    page = visit(after)
    assert len(shown(page)) >= 1
    assert page.locator("[data-kind=failure]").count() == 0


def test_an_empty_list_says_why(visit, data):
    tags = sorted({tag for tags in data.item_tags.values() for tag in tags})
    page = visit(address("60", avoid=tags))
    if shown(page):  # the sample has items without a tag
        pytest.skip("some items have no tag")
    assert "No item is left under these rules." in page.inner_text("#notices")
    with new_list(page):
        page.locator("[data-kind=empty] button").click()
    assert len(shown(page)) == 10


def test_one_of_several_models_is_chosen(visit, runs):
    page = visit(address("60"))
    choice = page.get_by_role("combobox", name="Model")
    assert choice.locator("option").all_inner_texts() == list(runs)
    with new_list(page):
        choice.select_option("ids")
    assert page.evaluate("location.hash") == "#model=ids&item=60"
    assert page.locator("#history .chip .name").inner_text() == "60"
    assert page.locator(f"{ROWS} .title").all_inner_texts() == shown(page)
    assert page.locator(f"{ROWS} [data-act=similar]:visible").count() == 0
    with new_list(page):
        page.go_back()
    assert shown(page) == recommended(runs, "films", ["60"])


def test_a_model_that_is_not_there_is_said(visit):
    page = visit("#model=flims", forgive=("404",))
    assert "There is no model" in page.inner_text("[data-kind=failure]")
    with new_list(page):
        page.locator("[data-kind=failure] button").click()
    assert len(shown(page)) == 10


def test_ratings_are_stars(visit):
    page = visit(address("60", "70", model="rated", rating=["5", "1"]))
    stars = page.locator("#history .stars")
    assert [each.get_attribute("aria-valuetext") for each in stars.all()] == ["5 of 5", "1 of 5"]
    before = shown(page)
    stars.nth(0).focus()
    with new_list(page):
        for _ in range(8):
            page.keyboard.press("ArrowLeft")
    until(page, "location.hash.includes('rating=1&rating=1')")
    settled(page)
    page.wait_for_timeout(200)
    assert page.evaluate("document.activeElement.matches('.stars')")
    assert shown(page) != before
    assert shown(visit(page.evaluate("location.hash"))) == shown(page)


def test_conditions_are_asked_under(visit, runs):
    page = visit(address("60", model="moods"))
    group = page.get_by_role("group", name="Conditions")
    button = group.get_by_role("button").first
    with new_list(page):
        button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert shown(page) == recommended(runs, "moods", ["60"], conditions=[button.inner_text()])


def test_a_service_that_is_gone_is_said_and_comes_back(visit):
    page = visit(address("60"), forgive=("ERR_INTERNET_DISCONNECTED",))
    before = shown(page)
    page.context.set_offline(True)
    page.locator(f"{ROWS} [data-act=add]").first.click()
    page.wait_for_selector("[data-kind=failure]")
    assert "The service does not answer." in page.inner_text("[data-kind=failure]")
    assert shown(page) == before
    page.context.set_offline(False)
    page.wait_for_selector("[data-kind=failure]", state="detached", timeout=15_000)
    assert page.locator("#history .chip").count() == 2
    assert shown(page) != before


def test_a_busy_service_is_asked_again_when_it_says(visit):
    page = visit(address("60"), forgive=("503",))
    problem = '{"type": "about:blank", "title": "Busy", "status": 503, "detail": "Too many questions wait."}'
    page.route(
        "**/recommend",
        lambda route: route.fulfill(
            status=503, body=problem, headers={"Retry-After": "1", "Content-Type": "application/problem+json"}
        ),
        times=1,
    )
    page.locator(f"{ROWS} [data-act=add]").first.click()
    page.wait_for_selector("[data-kind=failure]")
    assert "Too many questions wait. It is asked again by itself." in page.inner_text("[data-kind=failure]")
    page.wait_for_selector("[data-kind=failure]", state="detached", timeout=5000)


def test_a_token_is_asked_for_and_kept_for_the_tab(visit, runs, tmp_path):
    token = tmp_path / "token"
    token.write_text("a-token-of-some-length")
    with serving(f"films={runs['films']}", options=["--token-file", token, "--device", "cpu"]) as closed:
        page = visit(address("60"), url=closed.url, forgive=("401",))
        assert page.get_by_role("heading", name="This service asks for a token").is_visible()
        page.keyboard.type("a-wrong-token-altogether")
        page.keyboard.press("Enter")
        until(page, "document.querySelector('#token-wrong').textContent")
        assert page.inner_text("#token-wrong") == "The service does not take this token."
        page.keyboard.type("a-token-of-some-length")
        with new_list(page):
            page.keyboard.press("Enter")
        assert len(shown(page)) == 10
        assert "token" not in page.url
        assert focused(page)[0] == "search"
        page.reload()
        page.wait_for_selector(ROWS)
        assert page.evaluate("localStorage.length") == 0


def test_a_list_that_is_quick_shows_no_sign_of_loading(visit):
    page = visit(address("60"))
    page.evaluate(
        "window.seen = 0; const line = document.querySelector('#loading'); (function look() {"
        "window.seen = Math.max(window.seen, +getComputedStyle(line).opacity); requestAnimationFrame(look); })()"
    )
    with new_list(page):
        page.locator(f"{ROWS} [data-act=add]").first.click()
    assert page.evaluate("window.seen") == 0
    page.route("**/recommend", lambda route: (time.sleep(1), route.continue_()))
    with new_list(page):
        page.locator(f"{ROWS} [data-act=add]").first.click()
    assert page.evaluate("window.seen") > 0.5
