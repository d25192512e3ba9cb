"""The page in Chromium at a real service: what a person does there, and what comes of it."""

import re
import time
from contextlib import contextmanager

import pytest
from browser import chromium, serving

from data_prep import sample
from recvae import EASE, VAEAC, ConditionalVAE, Popularity, Query
from recvae.recommender import load

pytestmark = pytest.mark.slow

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


def test_a_search_builds_a_history_and_the_list_answers(visit, runs, data):
    page = visit()
    assert page.inner_text("#answer-title") == "What is liked in general"
    assert len(shown(page)) == 10
    title = data.item_titles[list(data.item_ids).index("60")]
    choose(page, title)
    assert page.locator("#history .chip .name").all_inner_texts() == [title]
    assert page.inner_text("#answer-title") == "Recommended"
    assert page.evaluate("location.hash") == "#item=60"
    assert shown(page) == recommended(runs, "films", ["60"])
    assert page.input_value("#search") == ""
    first = page.locator(ROWS).first
    added = first.get_attribute("data-id")
    with new_list(page):
        first.locator(".title").click()
    assert shown(page) == recommended(runs, "films", ["60", added])
    with new_list(page):
        page.get_by_role("button", name=f"Remove {title}").click()
    assert page.evaluate("location.hash") == f"#item={added}"


def test_nothing_found_is_said(visit):
    page = visit()
    page.fill("#search", "zzzz nothing")
    page.wait_for_selector("#found .none")
    assert "Nothing is called" in page.inner_text("#found")


def test_the_last_of_several_answers_wins(visit):
    """The first search and the first list are held up until later ones are there."""
    page = visit()
    held = []

    def hold(route):
        if not held:
            held.append(route)
        else:
            route.continue_()

    page.route("**/items?q=*", hold)
    page.fill("#search", "a")
    page.wait_for_timeout(200)
    page.fill("#search", "agent")
    page.wait_for_selector("#found [role=option]")
    found = page.inner_text("#found")
    held[0].continue_()
    page.wait_for_timeout(300)
    assert page.inner_text("#found") == found
    page.keyboard.press("Escape")
    held.clear()
    page.route("**/recommend", hold)
    page.locator(f"{ROWS} [data-act=add]").nth(0).click()
    page.locator(f"{ROWS} [data-act=add]").nth(1).click()
    until(page, "document.querySelector('#answer-title').textContent === 'Recommended'")
    listed = shown(page)
    held[0].continue_()
    page.wait_for_timeout(300)
    assert shown(page) == listed
    assert page.locator("#history .chip").count() == 2


def test_reasons_are_said_in_a_sentence(visit):
    page = visit(address(*LIKED))
    sentence = r"^because of .+: \d+(st|nd|rd|th) with it, ([\d,]+(st|nd|rd|th)|not listed) without$"
    reasons = page.locator(f"{ROWS} .reasons li").all_inner_texts()
    assert len(reasons) >= 8
    assert all(re.match(sentence, reason) for reason in reasons), reasons
    with new_list(page):
        page.get_by_role("combobox", name="Reasons").select_option("0")
    assert page.locator(f"{ROWS} .reasons li").count() == 0
    assert "reasons=0" in page.evaluate("location.hash")


def test_without_this_can_be_undone(visit):
    page = visit(address(*LIKED))
    before = shown(page)
    with new_list(page):
        page.locator(f"{ROWS} [data-act=without]").nth(2).click()
    assert before[2] not in shown(page)
    assert shown(page)[:9] == before[:2] + before[3:]
    assert page.locator("#history .out .chip").count() == 1
    with new_list(page):
        page.get_by_role("button", name="Undo").click()
    assert shown(page) == before
    assert page.locator("#history .out .chip").count() == 0


def test_tags_are_asked_for_and_left_out(visit, data):
    page = visit(address(*LIKED))
    tag = data.item_tags[shown(page)[0]][0]
    button = page.locator("#rules-body .tag", has_text=re.compile(f"^{tag}$"))
    with new_list(page):
        button.click()
    assert button.get_attribute("aria-label") == f"{tag}: asked for"
    assert all(tag in data.item_tags[item] for item in shown(page))
    with new_list(page):
        button.click()
    assert button.get_attribute("aria-label") == f"{tag}: left out"
    assert all(tag not in data.item_tags[item] for item in shown(page))
    with new_list(page):
        page.get_by_role("button", name="Drop the rules").first.click()
    assert page.evaluate("location.hash") == address(*LIKED)


def test_at_most_so_many_of_a_tag_and_the_length(visit, data):
    page = visit(address(*LIKED))
    with new_list(page):
        page.get_by_label("Of one tag").select_option("1")
    tags = [tag for item in shown(page) for tag in data.item_tags[item]]
    assert len(tags) == len(set(tags)) >= 5
    with new_list(page):
        page.get_by_label("Of one tag").select_option("")
    with new_list(page):
        page.get_by_label("Length").select_option("20")
    assert len(shown(page)) == 20
    with new_list(page):
        page.get_by_role("button", name="Show more").click()
    assert len(shown(page)) == 30


def test_diversity_is_a_slider(visit, runs):
    page = visit(address(*LIKED))
    slider = page.get_by_role("slider", name="Diversity")
    slider.focus()
    with new_list(page):
        for _ in range(12):
            page.keyboard.press("ArrowRight")
    until(page, "location.hash.endsWith('diversity=0.6')")
    settled(page)
    page.wait_for_timeout(200)
    assert slider.get_attribute("aria-valuetext") == "60 %"
    assert shown(page) == recommended(runs, "films", LIKED, diversity=0.6)


def test_chosen_items_can_be_listed(visit, runs):
    page = visit(address(*LIKED))
    with new_list(page):
        page.get_by_label("List chosen items, too").check()
    assert shown(page) == recommended(runs, "films", LIKED, exclude_seen=False)


def test_similar_items_open_and_close(visit, runs):
    page = visit(address("60"))
    first = page.locator(ROWS).first
    item = first.get_attribute("data-id")
    first.locator("[data-act=similar]").click()
    page.wait_for_selector("#similar[open] .row")
    model = load(runs["films"], device="cpu")
    ids = model.similar_items(model.items.columns[item], 10).ids
    assert shown(page, "#similar-rows .row") == [model.items.ids[column] for column in ids.ravel()]
    assert page.evaluate("location.hash") == address("60", similar=item)
    page.locator("#similar-rows [data-act=add]").first.click()
    page.wait_for_selector("#similar-rows [data-act=add]:has-text('Chosen')")
    assert page.locator("#history .chip").count() == 2
    page.keyboard.press("Escape")
    page.wait_for_selector("#similar:not([open])", state="attached")
    page.go_back()
    page.wait_for_selector("#similar[open]")


def test_an_address_can_be_sent_and_back_goes_back(visit):
    page = visit()
    seen = [shown(page)]
    for _ in range(2):
        with new_list(page):
            page.locator(f"{ROWS} [data-act=add]").first.click()
        seen.append(shown(page))
    sent = page.evaluate("location.hash")
    assert shown(visit(sent)) == seen[2]
    with new_list(page):
        page.go_back()
    assert shown(page) == seen[1]
    with new_list(page):
        page.go_back()
    assert shown(page) == seen[0]
    with new_list(page):
        page.go_forward()
    assert shown(page) == seen[1]


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


def test_everything_is_done_by_keyboard_alone(visit):
    page = visit()
    tab_to(page, "#search")
    page.keyboard.type("dragon")
    page.wait_for_selector("#found [role=option]")
    page.keyboard.press("ArrowDown")
    active = page.get_attribute("#search", "aria-activedescendant")
    assert page.get_attribute(f"#{active}", "aria-selected") == "true"
    with new_list(page):
        page.keyboard.press("Enter")
    assert page.locator("#history .chip").count() == 1
    assert focused(page)[0] == "search"
    tab_to(page, "#rows [data-act=add]")
    with new_list(page):
        page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.matches('#rows .row:first-child [data-act=add]')")
    tab_to(page, "#rows [data-act=without]")
    with new_list(page):
        page.keyboard.press("Enter")
    tab_to(page, "#rows [data-act=similar]")
    page.keyboard.press("Enter")
    page.wait_for_selector("#similar[open] .row")
    page.keyboard.press("Escape")
    page.wait_for_selector("#similar:not([open])", state="attached")
    assert page.evaluate("document.activeElement.matches('#rows [data-act=similar]')")
    tab_to(page, "#rules-body .tag")
    with new_list(page):
        page.keyboard.press("Space")
    assert page.locator(".tag[data-way=ask]").count() == 1
    page.focus("#search")
    page.keyboard.press("Backspace")
    assert focused(page)[1].startswith("Remove ")
    for left in (1, 0):
        with new_list(page):
            page.keyboard.press("Enter")
        assert page.locator("#history ul:not(.out) .chip").count() == left
    assert focused(page)[0] == "search"


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
