// Records: past answers that records were kept of. `#/records` lists them, `#/records/ID` opens one.
import { html } from "../core/html.js";
import { List } from "./records/list.js";
import { Opened } from "./records/opened.js";

export default function Records({ rest, query }) {
  const id = rest.join("/");
  return id ? html`<${Opened} key=${id} id=${id} query=${query} />` : html`<${List} query=${query} />`;
}
