// The search box: a combobox with a list of the items found, by pointer or by keyboard.

import { amount, byId, el, say } from "./dom.js";

const PAUSE = 80; // ms without a key until the text is searched

/** Return a title with the part that was typed marked, as nodes. */
function marked(title, typed) {
  const start = title.toLowerCase().indexOf(typed.toLowerCase());
  if (start < 0 || !typed) return [title];
  const end = start + typed.length;
  return [title.slice(0, start), el("mark", {}, title.slice(start, end)), title.slice(end)];
}

/**
 * Bring the search box to life. `find(text, signal)` returns items; `chosen(item)` is called for the one that is taken;
 * `has(id)` says whether an item is chosen already; `failed(problem)` shows a failure; `back()` moves to the chosen.
 */
export function searchBox({ find, chosen, has, failed, back }) {
  const input = byId("search"), list = byId("found");
  let found = [], active = -1, fresh = false, waiting, calling; // fresh: the list is of the text in the box

  const open = (yes) => {
    list.hidden = !yes;
    input.setAttribute("aria-expanded", String(yes));
    if (!yes) mark(-1);
  };
  const close = () => {
    clearTimeout(waiting);
    calling?.abort();
    open(false);
  };
  const mark = (place) => {
    active = place;
    [...list.children].forEach((option, at) => option.setAttribute("aria-selected", String(at === place)));
    const option = place < 0 ? null : list.children[place];
    if (option) {
      input.setAttribute("aria-activedescendant", option.id);
      option.scrollIntoView({ block: "nearest" });
    } else input.removeAttribute("aria-activedescendant");
  };
  const take = (item) => {
    input.value = "";
    found = [];
    close();
    if (!has(item.item)) chosen(item);
  };
  const show = (items, total, typed) => {
    found = items;
    fresh = true;
    list.replaceChildren(
      ...items.map((item, place) =>
        el("li", {
          role: "option", id: `found-${place}`, "aria-selected": "false", class: has(item.item) ? "had" : null,
          onmousedown: (event) => event.preventDefault(), // the box keeps the focus
          onclick: () => take(item),
        },
        el("span", { class: "name" }, marked(item.title || item.item, typed)),
        el("span", { class: "quiet" }, has(item.item) ? "chosen already" : item.tags.slice(0, 3).join(" · ")))));
    if (!items.length) list.append(el("li", { class: "none", role: "option", "aria-disabled": "true" }, `Nothing is called “${typed}”.`));
    open(true);
    list.scrollTop = 0;
    if (items.length) mark(0);
    say(items.length ? `${amount(total ?? items.length, "item")} found` : `Nothing is called ${typed}.`);
  };
  const search = async () => {
    calling?.abort();
    const typed = input.value.trim();
    if (!typed) return close();
    const mine = (calling = new AbortController());
    try {
      const answer = await find(typed, mine.signal);
      if (!mine.signal.aborted && document.activeElement === input) show(answer.items, answer.total, typed);
    } catch (problem) {
      if (mine.signal.aborted) return;
      open(false);
      failed(problem);
    }
  };

  input.addEventListener("input", () => {
    fresh = false;
    clearTimeout(waiting);
    calling?.abort();
    if (input.value.trim()) waiting = setTimeout(search, PAUSE);
    else close();
  });
  input.addEventListener("blur", close);
  input.addEventListener("focus", () => input.value.trim() && search());
  input.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && !list.hidden && found.length) mark((active + step + found.length) % found.length);
    else if (step && input.value.trim()) search();
    else if (event.key === "Enter" && !list.hidden && fresh && found[active]) take(found[active]);
    else if (event.key === "Enter" && input.value.trim()) search();
    else if (event.key === "Escape" && !list.hidden) close();
    else if (event.key === "Escape") input.value = "";
    else if (event.key === "Backspace" && !input.value) back();
    else return;
    event.preventDefault();
  });
}
