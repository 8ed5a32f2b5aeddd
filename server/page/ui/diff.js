// What differs between two texts, for the eye and for who listens.
import { html, useMemo } from "../core/html.js";
import { differences } from "../core/diff.js";

/** `to`, with what it has beside `from` marked, and what it lacks where `removed` is set. */
export function Diff({ from, to, removed = true }) {
  const pieces = useMemo(() => differences(from, to), [from, to]);
  return pieces.map(([kind, text], i) => {
    if (kind === "same") return html`<span key=${i}>${text}</span>`;
    if (kind === "added") return html`<ins key=${i}>${text}</ins>`;
    return removed && html`<del key=${i}>${text}</del>`;
  });
}
