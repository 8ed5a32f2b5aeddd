// Two have changed the same item: both are shown, and whoever came second decides.
import { html } from "../../core/html.js";
import { moment } from "../../core/format.js";
import { Button } from "../../ui/controls.js";
import { Diff } from "../../ui/diff.js";
import { Notice } from "../../ui/view.js";
import { NAMES, differing, shown } from "./item.js";

/** `current`: the version that stands now, null where it has been ended; `mine`: what was to be written. */
export function Conflict({ current, mine, onMine, onTheirs }) {
  return html`
    <${Notice} kind="warn" alert>
      <div class="stack">
        <p>${current ? `Somebody saved version ${current.version} meanwhile (${moment(current.recorded)}). Nothing of yours is lost; nothing was written.` : "Somebody ended it meanwhile. Nothing was written."}</p>
        ${current && html`
          <div class="norms-two">
            <section><h3>What stands: version ${current.version}</h3><${Says} item=${current} /></section>
            <section><h3>Yours, with what differs from it</h3><p class="norms-reading"><${Diff} from=${current.text} to=${mine.text} /></p>
              ${mine.answer && html`<p class="norms-reading"><${Diff} from=${current.answer ?? ""} to=${mine.answer} /></p>`}
              <${Others} from=${current} to=${mine} /></section>
          </div>`}
        <div class="row">
          <${Button} onClick=${onMine}>${current ? `Save mine over version ${current.version}` : "Save mine anyway"}<//>
          <${Button} kind="quiet" onClick=${onTheirs}>Keep what stands<//>
        </div>
      </div>
    <//>`;
}

const Says = ({ item }) => html`<p class="norms-reading">${item.text}</p>${item.answer && html`<p class="norms-reading">${item.answer}</p>`}`;

/** What differs beside the texts. */
export function Others({ from, to }) {
  const fields = differing(from, to).filter((field) => field !== "text" && field !== "answer");
  if (!fields.length) return null;
  return html`
    <dl class="norms-changes small">${fields.map((field) => html`
      <div key=${field}><dt>${NAMES[field]}</dt><dd>${shown(from[field]) && html`<del>${shown(from[field])}</del> `}${shown(to[field]) ? html`<ins>${shown(to[field])}</ins>` : html`<span class="faint">none</span>`}</dd></div>`)}</dl>`;
}
