import { html } from "../core/html.js";
import { Empty, View } from "../ui/view.js";

export default function Norms() {
  return html`<${View} title="Norms"><${Empty} title="Nothing here yet" /><//>`;
}
