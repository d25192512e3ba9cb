// The rules as controls. They are made once for a model, and then follow what is asked.

import { byId, el } from "./dom.js";
import { rules, WITHOUT_RULES } from "./address.js";

const FEW = 24; // tags that are shown before some are looked for
const MANY = 60;

const toggled = (values, value) => (values.includes(value) ? values.filter((one) => one !== value) : [...values, value]);

/** Tags: pressed once a tag is asked for, pressed twice it is left out. */
function tags(all, change) {
  const made = new Map();
  let state, typed = "";
  const box = el("div", { class: "chips" });
  const empty = el("p", { class: "quiet", hidden: true }, "No tag is called that.");
  const step = (tag) =>
    change(state.ask.includes(tag) ? { ask: toggled(state.ask, tag), avoid: [...state.avoid, tag] }
      : state.avoid.includes(tag) ? { avoid: toggled(state.avoid, tag) }
      : { ask: [...state.ask, tag] });
  const button = (tag) => {
    if (!made.has(tag)) made.set(tag, el("button", { class: "tag", onclick: () => step(tag) }, tag));
    const one = made.get(tag), way = state.ask.includes(tag) ? "ask" : state.avoid.includes(tag) ? "avoid" : "";
    one.dataset.way = way;
    one.setAttribute("aria-label", tag + { ask: ": asked for", avoid: ": left out", "": "" }[way]);
    return one;
  };
  const show = () => {
    const fit = typed ? all.filter((tag) => tag.toLowerCase().includes(typed)) : all;
    const used = [...state.ask, ...state.avoid].filter((tag) => all.includes(tag) && !fit.slice(0, FEW).includes(tag));
    const shown = typed ? fit.slice(0, MANY) : [...fit.slice(0, FEW), ...used];
    const buttons = shown.map(button);
    if (buttons.length !== box.children.length || buttons.some((one, at) => box.children[at] !== one)) box.replaceChildren(...buttons);
    empty.hidden = shown.length > 0;
  };
  const look = el("input", {
    type: "text", class: "small", placeholder: `Find one of ${all.length} tags`, "aria-label": "Find a tag", autocomplete: "off",
    oninput: (event) => { typed = event.target.value.trim().toLowerCase(); show(); },
  });
  const group = el("fieldset", {},
    el("legend", {}, "Tags"),
    el("p", { class: "quiet hint" }, "Press once to ask for a tag, twice to leave it out."),
    all.length > FEW ? look : null, box, empty);
  return [group, (now) => { state = now; show(); }];
}

function conditions(all, change) {
  let state;
  const buttons = all.map((name) =>
    el("button", { class: "tag", onclick: () => change({ conditions: toggled(state.conditions, name) }) }, name));
  const group = el("fieldset", {}, el("legend", {}, "Conditions"), el("div", { class: "chips scroll" }, buttons));
  return [group, (now) => {
    state = now;
    all.forEach((name, at) => {
      const on = now.conditions.includes(name);
      buttons[at].dataset.way = on ? "ask" : "";
      buttons[at].setAttribute("aria-pressed", String(on));
    });
  }];
}

function choice(label, options, read, change) {
  const select = el("select", { onchange: () => change(select.value) },
    options.map(([value, text]) => el("option", { value }, text)));
  return [el("label", { class: "field" }, el("span", {}, label), select), (now) => {
    const value = String(read(now));
    if (![...select.options].some((option) => option.value === value)) select.append(el("option", { value }, value));
    select.value = value;
  }];
}

function diversity(change) {
  let waiting;
  const input = el("input", {
    type: "range", min: 0, max: 1, step: 0.05, id: "diversity",
    oninput: () => { said(); clearTimeout(waiting); waiting = setTimeout(() => change({ diversity: Number(input.value) }, true), 90); },
    onchange: () => { clearTimeout(waiting); change({ diversity: Number(input.value) }); },
  });
  const said = () => {
    input.style.setProperty("--share", input.value);
    input.setAttribute("aria-valuetext", `${Math.round(input.value * 100)} %`);
  };
  const group = el("div", { class: "field tall" }, el("label", { for: "diversity" }, "Diversity"), input,
    el("div", { class: "ends quiet", "aria-hidden": "true" }, el("span", {}, "best first"), el("span", {}, "all kinds")));
  return [group, (now) => { if (document.activeElement !== input || now.diversity !== Number(input.value)) input.value = now.diversity; said(); }];
}

/** Make the controls for a model; return what brings them up to date. `change(part, passing)` asks anew. */
export function rulesFor(model, change) {
  const parts = [], most = Math.min(model.limits?.k ?? 100, model.items);
  if (model.tags.length) parts.push(tags([...model.tags].sort((a, b) => b.items - a.items).map((each) => each.tag), change));
  if (model.conditions.length) parts.push(conditions(model.conditions, change));
  if (model.similar) parts.push(diversity(change));
  if (model.tags.length) {
    parts.push(choice("Of one tag", [["", "any number"], ...[1, 2, 3, 5].map((n) => [n, `at most ${n}`])],
      (now) => now.perTag ?? "", (value) => change({ perTag: value === "" ? null : Number(value) })));
  }
  parts.push(choice("Reasons", [[0, "none"], [1, "the strongest"], [2, "the first two"], [3, "the first three"]],
    (now) => now.reasons, (value) => change({ reasons: Number(value) })));
  parts.push(choice("Length", [5, 10, 20, 50, 100].filter((k) => k <= most).map((k) => [k, amountOf(k)]),
    (now) => Math.min(now.k, most), (value) => change({ k: Number(value) })));
  const seen = el("input", { type: "checkbox", onchange: () => change({ seen: seen.checked }) });
  parts.push([el("label", { class: "check" }, seen, el("span", {}, "List chosen items, too")), (now) => (seen.checked = now.seen)]);
  const clear = el("button", { class: "plain", onclick: () => { change({ ...WITHOUT_RULES }); byId("answer-title").focus({ preventScroll: true }); } }, "Drop the rules");
  byId("rules-body").replaceChildren(...parts.map(([group]) => group), clear);
  return (now) => {
    for (const [, update] of parts) update(now);
    const count = rules(now);
    clear.hidden = count === 0;
    byId("rules-count").textContent = count ? String(count) : "";
  };
}

const amountOf = (k) => `${k} items`;
