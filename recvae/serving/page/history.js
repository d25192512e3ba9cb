// The chosen items as chips, and those that were left out.

import { byId, el, titled } from "./dom.js";

/** Make the control of one rating: five stars that are a slider up to 5, or up to 10 or 100 where ratings go so far. */
function stars(id, name, rating, most, rated) {
  const input = el("input", {
    type: "range", class: "stars", min: most / 10, max: most, step: most / 10, value: rating,
    "aria-label": `Rating of ${name}`, "data-part": "rating",
    oninput: () => show(),
    onchange: () => rated(id, Number(input.value)),
  });
  const value = el("span", { class: "quiet value", "aria-hidden": "true" });
  const show = () => {
    input.style.setProperty("--share", input.value / most);
    input.setAttribute("aria-valuetext", `${input.value} of ${most}`);
    value.textContent = input.value;
  };
  show();
  return [input, value];
}

function chip(id, title, gone, label, remove, more = []) {
  return el("li", { class: gone ? "chip gone" : "chip", "data-id": id },
    el("span", { class: "name", title: gone ? "This model does not have this item." : null }, title === null ? id : titled(title)),
    more,
    el("button", { class: "remove", "aria-label": label, "data-part": "remove", onclick: () => remove(id) }, "×"));
}

/**
 * Show a history. `name(id)` returns a title or null, `gone` is the set of ids that the model does not have;
 * `acts`: remove(id), restore(id), rated(id, rating), clear(), copy(button).
 */
export function showHistory(state, { name, gone, ratings, acts }) {
  const box = byId("history");
  const at = document.activeElement, item = at.closest("#history [data-id]");
  const had = box.contains(at) ? { part: at.dataset.part, id: item?.dataset.id } : null;
  const list = item?.parentElement.className, place = item ? [...item.parentElement.children].indexOf(item) : -1;
  const called = (id) => name(id) ?? id;
  const most = [5, 10].find((each) => Math.max(...state.ratings) <= each) ?? 100;
  const lines = [];
  if (state.items.length) {
    lines.push(el("div", { class: "line" },
      el("ul", { class: "chips", "aria-label": "Your history" }, state.items.map((id, at) =>
        chip(id, name(id), gone.has(id), `Remove ${called(id)}`, acts.remove,
          ratings ? stars(id, called(id), state.ratings[at], most, acts.rated) : [])))));
  }
  if (state.without.length) {
    lines.push(el("div", { class: "line" },
      el("span", { class: "quiet lead", id: "left-out" }, "Left out"),
      el("ul", { class: "chips out", "aria-labelledby": "left-out" }, state.without.map((id) =>
        chip(id, name(id), gone.has(id), `Bring back ${called(id)}`, acts.restore)))));
  }
  if (lines.length) {
    lines.push(el("div", { class: "line acts" },
      navigator.clipboard ? el("button", { class: "plain", "data-part": "copy", onclick: (event) => acts.copy(event.target) }, "Copy the link") : null,
      el("button", { class: "plain", "data-part": "clear", onclick: acts.clear }, "Start over")));
  }
  box.replaceChildren(...lines);
  if (!had) return;
  const chips = item ? [...box.querySelectorAll(`[class="${list}"] > li`)] : [];
  const next = chips.find((one) => one.dataset.id === had.id) ?? chips[Math.min(place, chips.length - 1)] ?? (item ? null : box);
  (next?.querySelector(`[data-part="${had.part}"]`) ?? byId("search")).focus({ preventScroll: true });
}

/** Move to the last chosen item, if there is one. */
export function toLastChosen() {
  const all = byId("history").querySelectorAll('ul:not(.out) [data-part="remove"]');
  all[all.length - 1]?.focus();
}
