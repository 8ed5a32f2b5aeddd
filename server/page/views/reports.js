// Reports: evaluations' raw records, opened and browsed, and small ones made here. `#/reports` is where they come from,
// `#/reports/open` the one that is open, `#/reports/try` the same questions under two alignments.
import { html, useEffect } from "../core/html.js";
import { Home } from "./reports/home.js";
import { Opened } from "./reports/opened.js";
import { trouble } from "./reports/kept-run.js";
import { restore } from "./reports/run.js";
import { Try } from "./reports/try.js";

export default function Reports({ rest, query }) {
  useEffect(() => {
    restore().catch((error) => trouble.set(`What this tab has kept can't be read: ${error?.message ?? error}`));
  }, []);
  if (rest[0] === "open") return html`<${Opened} query=${query} name=${rest[1]} />`;
  if (rest[0] === "try") return html`<${Try} query=${query} />`;
  return html`<${Home} />`;
}
