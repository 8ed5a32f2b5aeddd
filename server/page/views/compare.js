import { html } from "../core/html.js";
import { server } from "../core/server.js";
import { useStore } from "../core/store.js";
import { Empty, View } from "../ui/view.js";

export default function Compare() {
  const { models } = useStore(server);
  return html`<${View} title="Compare"><${Empty} title=${models.map(({ id }) => id).join(", ")} icon="columns" /><//>`;
}
