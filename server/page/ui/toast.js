// What is said in passing: to the eye, and to who listens.
import { html } from "../core/html.js";
import { store, useStore } from "../core/store.js";

const toasts = store([]);
const said = store("");
let number = 0;

/** Shows a short text for a few seconds, and says it. */
export function toast(text) {
  const id = ++number;
  toasts.set((before) => [...before, { id, text }]);
  setTimeout(() => toasts.set((before) => before.filter((each) => each.id !== id)), 3500);
  announce(text);
}

/** Says a text to screen readers alone, once they are done with what they say. The end of a thing, never its course. */
export function announce(text) {
  said.set(said.get() === text ? `${text}\u00a0` : text);
}

export function Toasts() {
  const shown = useStore(toasts);
  const now = useStore(said);
  return html`
    <div class="toasts" aria-hidden="true">${shown.map(({ id, text }) => html`<div key=${id}>${text}</div>`)}</div>
    <div class="unseen" role="status" aria-live="polite">${now}</div>`;
}
