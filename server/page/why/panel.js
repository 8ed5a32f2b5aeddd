// Why an answer came out as it did.
import { html } from "../core/html.js";
import { Code } from "../ui/controls.js";
import { Empty } from "../ui/view.js";

export function Why({ answer }) {
  if (!answer.trace) return html`<${Empty} title="No trace yet"><p>It comes with the end of the answer.</p><//>`;
  return html`<${Code} label="trace" text=${JSON.stringify(answer.trace, null, 2)} />`;
}
