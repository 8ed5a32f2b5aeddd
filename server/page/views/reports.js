import { html } from "../core/html.js";
import { Empty, View } from "../ui/view.js";

export default function Reports() {
  return html`<${View} title="Reports"><${Empty} title="Nothing here yet" /><//>`;
}
