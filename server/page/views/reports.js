// Reports: evaluations' raw records, opened and browsed, and small ones made here. `#/reports` is where they come from,
// `#/reports/open` the one that is open, `#/reports/try` the same questions under two alignments.
import { html } from "../core/html.js";
import { Home } from "./reports/home.js";
import { Opened } from "./reports/opened.js";
import { Try } from "./reports/try.js";

export default function Reports({ rest, query }) {
  if (rest[0] === "open") return html`<${Opened} query=${query} name=${rest[1]} />`;
  if (rest[0] === "try") return html`<${Try} query=${query} />`;
  return html`<${Home} />`;
}
