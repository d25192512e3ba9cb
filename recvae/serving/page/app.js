// The page: what is asked is the address, and the service's answer is the list.

import * as address from "./address.js";
import * as api from "./api.js";
import { amount, byId, el, say, toast } from "./dom.js";
import { showHistory, toLastChosen } from "./history.js";
import { rowsIn } from "./list.js";
import { rulesFor } from "./rules.js";
import { searchBox } from "./search.js";
import { similarSheet } from "./similar.js";

let state = address.read(location.hash);
let models = null, model = null, opened = null; // opened: the name under which the model was asked for
let names = new Map(), gone = new Set();
let updateRules = () => {};
let turn = 0, calling = null, failures = 0, again;

const name = (id) => names.get(id)?.title || null;
const has = (id) => state.items.includes(id);
const called = (item) => item.title || item.item;
const learn = (items) => items.forEach((item) => item.title !== undefined && names.set(item.item, item));

/** Ask something else. `passing`: one of many steps of a slider, which is no place to come back to. */
function change(part, passing = false) {
  state = { ...state, ...part };
  const next = address.write(state, model?.ratings);
  if (passing) history.replaceState(null, "", next);
  else if (next !== location.hash) history.pushState(null, "", next);
  render();
}

const without = (place) => ({
  items: state.items.filter((_, at) => at !== place),
  ratings: state.ratings.filter((_, at) => at !== place),
});

function add(item) {
  learn([item]);
  change({ items: [...state.items, item.item], ratings: [...state.ratings, 5], without: state.without.filter((id) => id !== item.item) });
  say(`${called(item)} is chosen.`);
}

function addFromList(item) {
  add(item);
  if (!byId("similar").open) toast(`Added ${called(item)}`, "Undo", () => change(without(state.items.indexOf(item.item))));
}

function leaveOut(item) {
  learn([item]);
  change({ without: [...state.without, item.item] });
  toast(`Left out ${called(item)}`, "Undo", () => restore(item.item));
}

const restore = (id) => change({ without: state.without.filter((one) => one !== id) });

const acts = {
  remove: (id) => change(without(state.items.indexOf(id))),
  restore,
  rated: (id, rating) => change({ ratings: state.ratings.map((old, at) => (state.items[at] === id ? rating : old)) }),
  clear: () => {
    const before = state;
    change({ items: [], ratings: [], without: [], similar: null });
    byId("search").focus();
    toast("Started over", "Undo", () => change(before));
  },
  copy: async (button) => {
    try { await navigator.clipboard.writeText(location.href); button.textContent = "Copied"; } catch { button.textContent = "Copy it from the address bar"; }
    setTimeout(() => (button.textContent = "Copy the link"), 2000);
  },
};

const addAct = { kind: "add", text: "Add", label: (title) => `Add ${title}`, act: addFromList };
const similarAct = { kind: "similar", text: "Similar", label: (title) => `Similar to ${title}`, act: (item) => change({ similar: item.item }) };
const withoutAct = { kind: "without", text: "Without this", label: (title) => `Without this: ${title}`, act: leaveOut };

const showRows = rowsIn(byId("rows"), { acts: [addAct, similarAct, withoutAct], has, name });
const showSimilar = similarSheet({
  ask: async (id) => {
    const answer = await api.similar(state.model, { item: id, k: 10 });
    learn([answer.item, ...answer.items]);
    return answer;
  },
  acts: [addAct, similarAct],
  has,
  closed: () => change({ similar: null }),
});

searchBox({
  find: async (text, signal) => {
    const answer = await api.search(state.model, text, signal);
    learn(answer.items);
    return answer;
  },
  chosen: add,
  has,
  failed: (problem) => failed(problem),
  back: toLastChosen,
});

/** Show a line above the list, or with null take it away. Each kind of line is there once at most. */
function notice(kind, sentence, action, act) {
  const box = byId("notices");
  const old = box.querySelector(`[data-kind="${kind}"]`);
  if (!sentence) return old?.remove();
  if (old?.dataset.sentence === sentence) return;
  const line = el("p", { class: "notice", "data-kind": kind, role: kind === "failure" ? "alert" : null },
    el("span", {}, sentence), action ? el("button", { class: "plain", onclick: act }, action) : null);
  line.dataset.sentence = sentence;
  old ? old.replaceWith(line) : box.append(line);
}

function failed(problem) {
  clearTimeout(again);
  byId("page").classList.remove("busy");
  if (problem.status === 401) return askForToken();
  byId("page").hidden = false;
  document.body.classList.add("ready");
  byId("rows").classList.add("stale");
  if (problem.status === undefined) console.error(problem); // a mistake of this page
  const sentence = problem.status === undefined ? `The page made a mistake: ${problem.message}` : problem.message;
  if (problem.again !== null && problem.again !== undefined) {
    const seconds = Math.min(30, problem.again * 2 ** Math.min(failures++, 4));
    again = setTimeout(render, 1000 * seconds);
    return notice("failure", `${sentence} It is asked again by itself.`, "Ask now", render);
  }
  if (!model && state.model !== null) return notice("failure", sentence, "Use the first model", () => change({ model: null }));
  if (address.rules(state)) return notice("failure", sentence, "Drop the rules", () => change(address.WITHOUT_RULES));
  notice("failure", sentence, "Ask again", render);
}

function worked() {
  failures = 0;
  clearTimeout(again);
  notice("failure", null);
  byId("rows").classList.remove("stale");
  byId("page").classList.remove("busy");
}

function askForToken() {
  const wrong = api.hasToken();
  api.useToken(null);
  document.body.classList.add("ready");
  byId("page").hidden = true;
  byId("token").hidden = false;
  byId("token-wrong").textContent = wrong ? "The service does not take this token." : "";
  byId("token-text").focus();
}

byId("token").addEventListener("submit", (event) => {
  event.preventDefault();
  api.useToken(byId("token-text").value.trim());
  byId("token-text").value = "";
  render();
});

function showModel() {
  const choose = () => change({ model: select.value === models[0].name ? null : select.value, similar: null });
  const select = el("select", { "aria-label": "Model", onchange: choose }, models.map((each) => el("option", { value: each.name }, each.name)));
  select.value = model.name;
  byId("model").replaceChildren(models.length > 1 ? select : el("span", { class: "quiet" }, model.name));
  const facts = [model.title, amount(model.items, "item"), model.dataset, `version ${model.version}`].filter(Boolean);
  byId("foot").replaceChildren(el("span", {}, facts.join(" · ")), el("a", { href: "openapi.json" }, "API"));
  byId("search").placeholder = model.titles ? "Type a title or an id" : "Type an id";
}

async function openModel() {
  const asked = state.model;
  const [all, one] = await Promise.all([api.models(), api.model(asked)]);
  if (asked !== state.model) return;
  [models, model, opened] = [all, one, asked];
  names = new Map();
  gone = new Set();
  updateRules = rulesFor(model, change);
  showModel();
  document.body.classList.toggle("no-similar", !model.similar);
}

/** Learn the titles of chosen items that this page has not met: those of an address. */
async function learnNames() {
  const strange = [...state.items, ...state.without].filter((id) => !names.has(id) && !gone.has(id));
  if (!strange.length) return;
  const found = await api.lookUp(state.model, strange);
  learn(found.items);
  found.unknown.forEach((id) => gone.add(id));
}

function question() {
  const tags = new Set(model.tags.map((each) => each.tag));
  const known = { ask: state.ask.filter((tag) => tags.has(tag)), avoid: state.avoid.filter((tag) => tags.has(tag)) };
  const under = state.conditions.filter((condition) => model.conditions.includes(condition));
  const strange = [...state.ask, ...state.avoid, ...state.conditions].filter((each) => !tags.has(each) && !model.conditions.includes(each));
  notice("rules", strange.length ? `This model does not have ${strange.join(", ")}.` : null, "Drop it", () =>
    change({ ...known, conditions: under }));
  const asked = { history: state.items, k: Math.min(state.k, model.limits?.k ?? state.k), exclude_seen: !state.seen };
  if (model.ratings) asked.ratings = state.ratings;
  if (state.without.length) asked.deny = state.without;
  if (known.ask.length) asked.allow_tags = known.ask;
  if (known.avoid.length) asked.deny_tags = known.avoid;
  if (under.length) asked.conditions = under;
  if (state.perTag !== null && tags.size) asked.most_per_tag = state.perTag;
  if (state.diversity > 0 && model.similar) asked.diversity = state.diversity;
  if (state.items.length && state.reasons) asked.reasons = Math.min(state.reasons, model.limits?.reasons ?? state.reasons);
  return asked;
}

function showChosen() {
  showHistory(state, { name, gone, ratings: model.ratings, acts });
  const lost = [...state.items, ...state.without].filter((id) => gone.has(id));
  const few = lost.slice(0, 5).join(", ") + (lost.length > 5 ? " and others" : "");
  notice("gone", lost.length ? `${amount(lost.length, "item")} of this address ${lost.length === 1 ? "is" : "are"} not in this model: ${few}.` : null,
    "Remove", () => {
      const kept = state.items.map((id, at) => [id, state.ratings[at]]).filter(([id]) => !gone.has(id));
      change({ items: kept.map(([id]) => id), ratings: kept.map(([, rating]) => rating), without: state.without.filter((id) => !gone.has(id)) });
    });
}

function showAnswer(answer, asked) {
  const known = state.items.filter((id) => !gone.has(id));
  const general = known.length === 0;
  byId("answer-title").textContent = general ? "What is liked in general" : "Recommended";
  byId("general").hidden = !general || !answer.items.length;
  document.title = general ? "recvae" : `${called(names.get(known.at(-1)) ?? { item: known.at(-1) })}${known.length > 1 ? ` and ${known.length - 1} more` : ""} · recvae`;
  showRows(answer.items);
  notice("empty", answer.items.length ? null : "No item is left under these rules.", address.rules(state) ? "Drop the rules" : "Bring all back",
    () => change(address.rules(state) ? address.WITHOUT_RULES : { without: [] }));
  byId("more").hidden = answer.items.length < asked.k || asked.k >= Math.min(model.limits?.k ?? 100, model.items);
  say(answer.items.length ? `${amount(answer.items.length, "item")}. First: ${called(answer.items[0])}.` : "No item is left.");
}

/** Bring the page to what is asked: the chosen items at once, the list when the service has answered. */
async function render() {
  const mine = ++turn;
  calling?.abort();
  calling = new AbortController();
  const signal = calling.signal;
  byId("page").classList.add("busy");
  try {
    if (!model || opened !== state.model) await openModel();
    if (mine !== turn) return;
    updateRules(state);
    const asked = question();
    const answering = api.recommend(state.model, asked, signal);
    answering.catch(() => {}); // it is waited for below
    await learnNames();
    if (mine !== turn) return;
    showChosen();
    showSimilar(model.similar ? state.similar : null);
    const answer = await answering;
    if (mine !== turn) return;
    learn(answer.items);
    if (answer.unknown.some((id) => !gone.has(id))) {
      answer.unknown.forEach((id) => gone.add(id));
      showChosen();
    }
    worked();
    const entered = !byId("token").hidden;
    byId("token").hidden = true;
    byId("page").hidden = false;
    if (entered) byId("search").focus();
    document.body.classList.add("ready");
    showAnswer(answer, asked);
    if (answer.model.version !== model.version) { // another run was put in its place
      opened = undefined;
      render();
    }
  } catch (problem) {
    if (mine === turn && problem.name !== "AbortError") failed(problem);
  }
}

byId("more").addEventListener("click", () => change({ k: state.k + 10 }));
addEventListener("popstate", () => {
  state = address.read(location.hash);
  toast();
  render();
});

const wide = matchMedia("(min-width: 58rem)");
const unfold = () => (byId("rules").open = wide.matches);
wide.addEventListener("change", unfold);
unfold();
render();
