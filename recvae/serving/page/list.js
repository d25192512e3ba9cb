// Lists of items. A row that stays in a list stays on the page and glides to its new place.

import { el, ordinal, titled } from "./dom.js";

const GLIDE = { duration: 220, easing: "cubic-bezier(.2, .7, .2, 1)" };
const still = matchMedia("(prefers-reduced-motion: reduce)");

function make(item, acts) {
  const title = item.title || item.item;
  const take = (act) => act === acts[0] && parts.row.classList.contains("had") ? null : act.act(item);
  const parts = {
    rank: el("span", { class: "rank" }),
    bar: el("span", { class: "fill" }),
    meter: null,
    reasons: el("ul", { class: "reasons", role: "list", "aria-label": "Reasons" }),
    acts: [],
  };
  parts.meter = el("span", { class: "bar", "aria-hidden": "true" }, parts.bar);
  parts.acts = acts.map((act) =>
    el("button", { class: "plain", "data-act": act.kind, "aria-label": act.label(title), onclick: () => take(act) }, act.text));
  parts.row = el("li", { class: "row", "data-id": item.item },
    parts.rank,
    el("div", { class: "what" },
      // The button beside it does the same by keyboard.
      el("span", { class: "title", onclick: () => take(acts[0]) }, titled(title)),
      item.tags?.length ? el("span", { class: "tags" }, item.tags.join(" · ")) : null,
      parts.reasons),
    parts.meter,
    el("div", { class: "row-acts" }, parts.acts));
  return parts;
}

/** Return "because of Alien (1979): 3rd with it, 41st without" as nodes. */
function because(reason, rank, name) {
  return el("li", {}, "because of ", el("b", {}, reason.title || name(reason.item) || reason.item),
    `: ${ordinal(rank)} with it, ${reason.rank > 0 ? ordinal(reason.rank) : "not listed"} without`);
}

/** The share of a bar that is filled: all of it for the greatest score of a list, a little for the least. */
function shares(scores) {
  const least = Math.min(...scores), span = Math.max(...scores) - least;
  return scores.map((score) => (span > 0 ? 0.08 + 0.92 * ((score - least) / span) : 1));
}

/**
 * Return what shows items in a list. `acts`: the things to do about an item, as {kind, text, label(title), act(item)};
 * the first is also what a click on a title does. `has(id)` says whether an item is chosen already.
 */
export function rowsIn(box, { acts, has, name }) {
  const rows = new Map();
  return (items) => {
    const at = document.activeElement;
    const kind = box.contains(at) ? at.dataset.act : null;
    const place = kind ? [...box.children].indexOf(at.closest(".row")) : -1;
    const before = new Map();
    if (!still.matches) for (const [id, { row }] of rows) before.set(id, row.getBoundingClientRect().top);

    const kept = new Set(items.map((item) => item.item)), filled = shares(items.map((item) => item.score));
    for (const [id, { row }] of rows) if (!kept.has(id)) { row.remove(); rows.delete(id); }
    items.forEach((item, order) => {
      let parts = rows.get(item.item);
      const about = JSON.stringify([item.title, item.tags]);
      if (parts?.about !== about) { // new, or of a run whose titles are others
        parts?.row.remove();
        parts = { ...make(item, acts), about };
        rows.set(item.item, parts);
      }
      if (box.children[order] !== parts.row) box.insertBefore(parts.row, box.children[order] ?? null);
      parts.rank.textContent = order + 1;
      parts.bar.style.width = `${(100 * filled[order]).toFixed(1)}%`;
      parts.meter.title = `Score ${item.score.toPrecision(4)}`;
      parts.reasons.replaceChildren(...(item.reasons ?? []).map((reason) => because(reason, item.rank, name)));
      parts.reasons.hidden = !item.reasons?.length;
      const had = has(item.item);
      parts.row.classList.toggle("had", had);
      parts.acts[0].setAttribute("aria-disabled", String(had));
      parts.acts[0].textContent = had ? "Chosen" : acts[0].text;
    });

    if (kind && document.activeElement !== at) { // the row under the focus has moved or gone
      const row = at.isConnected ? at.closest(".row") : box.children[Math.min(place, box.children.length - 1)];
      row?.querySelector(`[data-act="${kind}"]`)?.focus({ preventScroll: true });
    }
    if (still.matches || !before.size) return;
    for (const [id, { row }] of rows) {
      const from = before.get(id), by = from === undefined ? 0 : from - row.getBoundingClientRect().top;
      if (from === undefined) row.animate({ opacity: [0, 1] }, GLIDE);
      else if (by) row.animate({ transform: [`translateY(${by}px)`, "none"] }, GLIDE);
    }
  };
}
