// Making elements. Texts become text nodes only: nothing that a server sends is ever read as HTML.

/** Return the element of the page with this id. */
export const byId = (id) => document.getElementById(id);

/** Make an element: `on...` are listeners, true and false set and leave out an attribute, children are nodes or texts. */
export function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

/** Return a title as nodes, with a year at its end in a quieter colour. */
export function titled(title) {
  const parts = /^(.*\S)\s+(\(\d{4}\))$/s.exec(title);
  return parts ? [parts[1], " ", el("span", { class: "year" }, parts[2])] : [title];
}

/** Return 1st, 2nd, 3rd, 11th, 1,203rd. */
export function ordinal(number) {
  const kind = new Intl.PluralRules("en", { type: "ordinal" }).select(number);
  return number.toLocaleString("en") + { one: "st", two: "nd", few: "rd", other: "th" }[kind];
}

/** Return "1 item" or "2,300 items". */
export const amount = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

let saying;

/** Tell a screen reader what has changed, once things are still. */
export function say(sentence) {
  clearTimeout(saying);
  saying = setTimeout(() => {
    (document.querySelector("dialog[open] [role=status]") ?? byId("said")).textContent = sentence;
  }, 250);
}

let leaving;

/** Show a line at the foot of the window for a while, with one thing to do about it. */
export function toast(sentence, action, act) {
  const box = byId("toast");
  const close = () => {
    clearTimeout(leaving);
    const inside = box.contains(document.activeElement);
    box.classList.remove("shown");
    box.replaceChildren();
    if (inside) byId("answer-title").focus({ preventScroll: true });
  };
  const wait = () => {
    clearTimeout(leaving);
    leaving = setTimeout(() => (box.matches(":hover, :focus-within") ? wait() : close()), 7000);
  };
  if (!sentence) return close();
  const button = el("button", { onclick: () => (close(), act()) }, action);
  box.replaceChildren(el("span", {}, sentence), button);
  box.classList.add("shown");
  wait();
}
