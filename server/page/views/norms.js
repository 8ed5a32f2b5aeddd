// Norms and demonstrations: what answers are to heed, searched, mended, tried, and followed back in time.
import { html } from "../core/html.js";
import { link } from "../core/router.js";
import { server } from "../core/server.js";
import { useStore } from "../core/store.js";
import { Empty, View } from "../ui/view.js";
import { ItemDrawer, NewDrawer } from "./norms/drawer.js";
import { Shelf } from "./norms/shelf.js";
import { StoreList } from "./norms/stores.js";

/** `#/norms`, `#/norms/STORE`, `#/norms/STORE/ID`, each with `?add=norm|demo`. An id may hold slashes. */
export default function Norms({ rest, query }) {
  const { who } = useStore(server);
  const [named, ...id] = rest.filter((part, i) => i > 0 || part);
  const shared = named?.startsWith("shared/");
  // A trace names a shared store as its reader does; to whose it is it is one like any other.
  const store = shared && who.tenant === "default" ? named.slice("shared/".length) : named;
  if (shared && store === named) return html`<${Shared} name=${named} />`;
  return html`
    ${store ? html`<${Shelf} key=${store} store=${store} query=${query} />` : html`<${StoreList} />`}
    ${store && id.length > 0 && html`<${ItemDrawer} key=${`${store}/${id.join("/")}`} store=${store} id=${id.join("/")} query=${query} />`}
    ${query.get("add") && html`<${NewDrawer} store=${store} kind=${query.get("add")} query=${query} />`}`;
}

const Shared = ({ name }) => html`
  <${View} title=${name}><${Empty} title="A shared store" icon="link">
    <p>Your answers heed it; what is in it is kept by who runs this server, and can't be read or changed with this key.</p>
    <a class="button" href=${link("norms")}>To your stores</a><//><//>`;

