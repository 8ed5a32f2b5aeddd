import { html } from "../core/html.js";
import { Empty, View } from "../ui/view.js";

export default function Running() {
  return html`<${View} title="Running"><${Empty} title="Nothing here yet" /><//>`;
}
