// The sheet of items that are like one item.

import { byId, say } from "./dom.js";
import { rowsIn } from "./list.js";

/**
 * Return what shows the items like one, or with null closes the sheet. `ask(id)` returns the service's answer;
 * `acts` and `has` are those of a list; `closed()` is called when the person closes the sheet.
 */
export function similarSheet({ ask, acts, has, closed }) {
  const sheet = byId("similar"), title = byId("similar-title"), note = byId("similar-note");
  const show = rowsIn(byId("similar-rows"), { acts, has, name: () => null });
  let shown = null, answer = null, returnTo = null;

  byId("similar-close").addEventListener("click", closed);
  sheet.addEventListener("cancel", (event) => (event.preventDefault(), closed()));
  sheet.addEventListener("click", (event) => event.target === sheet && closed());

  return async (id) => {
    if (id === null) {
      shown = answer = null;
      if (sheet.open) {
        sheet.close();
        if (returnTo?.isConnected) returnTo.focus({ preventScroll: true });
      }
      return;
    }
    if (id === shown && answer) return show(answer.items); // what is chosen may have changed
    shown = id;
    let got, failure;
    try { got = await ask(id); } catch (problem) { failure = problem; }
    if (shown !== id) return;
    answer = got ?? null;
    const called = got ? got.item.title || got.item.item : id;
    title.textContent = failure ? "Similar items" : `Similar to ${called}`;
    note.textContent = failure ? failure.message : got.items.length ? "" : "The model knows of none.";
    note.hidden = !note.textContent;
    show(got?.items ?? []);
    if (!sheet.open) {
      returnTo = document.activeElement;
      sheet.showModal();
    }
    sheet.scrollTop = 0;
    title.focus({ preventScroll: true });
    say(failure ? failure.message : `${got.items.length} items are similar to ${called}`);
  };
}
