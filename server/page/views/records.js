import { html } from "../core/html.js";
import { Empty, View } from "../ui/view.js";

export default function Records() {
  return html`<${View} title="Records"><${Empty} title="Nothing here yet" /><//>`;
}
