"""The page in Chromium at a real service: what a person does there, and what comes of it."""

import re

import pytest
from page_steps import LIKED, ROWS, address, choose, focused, new_list, recommended, settled, shown, tab_to, until

from recvae.recommender import load

pytestmark = pytest.mark.slow


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
