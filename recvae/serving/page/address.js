// All that is asked is in the address, behind the #: it can be sent and kept, and a server's log does not see it.

const REASONS = 1, K = 10; // where the address does not say

/** Return the number of an address within its bounds, or what stands for no number. */
function number(text, least, most, otherwise) {
  const value = text === null || text.trim() === "" ? NaN : Number(text);
  return Number.isFinite(value) ? Math.min(most, Math.max(least, value)) : otherwise;
}

const whole = (text, least, most, otherwise) => Math.round(number(text, least, most, otherwise));
const distinct = (values) => [...new Set(values)];

/** Return what an address asks; what makes no sense in it counts as not there. */
export function read(hash) {
  const parts = new URLSearchParams(hash.replace(/^#/, ""));
  const ratings = parts.getAll("rating"), seen = new Map();
  parts.getAll("item").forEach((id, place) => seen.has(id) || seen.set(id, number(ratings[place] ?? null, 0.5, 100, 5)));
  return {
    items: [...seen.keys()],
    ratings: [...seen.values()],
    without: distinct(parts.getAll("without")),
    ask: distinct(parts.getAll("ask")),
    avoid: distinct(parts.getAll("avoid")),
    conditions: distinct(parts.getAll("condition")),
    perTag: whole(parts.get("per-tag"), 1, 1000, 0) || null,
    diversity: number(parts.get("diversity"), 0, 1, 0),
    reasons: whole(parts.get("reasons"), 0, 5, REASONS),
    k: whole(parts.get("k"), 1, 100000, K),
    seen: parts.has("seen"),
    model: parts.get("model"),
    similar: parts.get("similar"),
  };
}

/** Return the address of what is asked: only what is not as usual is in it. */
export function write(state, ratings) {
  const parts = new URLSearchParams();
  const all = (name, values) => values.forEach((value) => parts.append(name, value));
  if (state.model !== null) parts.set("model", state.model);
  all("item", state.items);
  if (ratings) all("rating", state.ratings);
  all("without", state.without);
  all("ask", state.ask);
  all("avoid", state.avoid);
  all("condition", state.conditions);
  if (state.perTag !== null) parts.set("per-tag", state.perTag);
  if (state.diversity > 0) parts.set("diversity", state.diversity);
  if (state.reasons !== REASONS) parts.set("reasons", state.reasons);
  if (state.k !== K) parts.set("k", state.k);
  if (state.seen) parts.set("seen", "yes");
  if (state.similar !== null) parts.set("similar", state.similar);
  return `#${parts}`;
}

/** What is asked without a rule. */
export const WITHOUT_RULES = { ask: [], avoid: [], conditions: [], perTag: null, diversity: 0, seen: false };

/** How many rules there are. */
export const rules = (state) =>
  state.ask.length + state.avoid.length + state.conditions.length +
  (state.perTag !== null) + (state.diversity > 0) + state.seen;
