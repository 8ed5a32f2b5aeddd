// All versions of an item, the newest first, each with what it changed.
import { html, useState } from "../../core/html.js";
import { moment } from "../../core/format.js";
import { Button } from "../../ui/controls.js";
import { Diff } from "../../ui/diff.js";
import { Failed } from "../../ui/view.js";
import { Others } from "./conflict.js";
import { Marks } from "./row.js";

/** `onRestore(version)` returns a promise. */
export function History({ history, standing, may, onRestore }) {
  const [state, setState] = useState({});
  const versions = history.filter(({ version }) => version);
  const restore = (version) => {
    setState({ busy: true });
    onRestore(version).then(() => setState({}), (error) => setState({ error }));
  };
  return html`
    ${state.error && html`<${Failed} error=${state.error} />`}
    <ol class="norms-history">
      ${[...history].reverse().map((each) => {
        if (each.erased) {
          return html`<li key=${each.erased} class="norms-version"><p class="soft">Erased ${moment(each.erased)}: ${each.versions} ${each.versions === 1 ? "version is" : "versions are"} gone for good.</p></li>`;
        }
        const before = versions[versions.indexOf(each) - 1];
        return html`
          <li key=${each.version} class="norms-version">
            <div class="row">
              <h3>Version ${each.version}</h3>
              ${each === standing ? html`<span class="chip good">stands</span>` : html`<span class="chip">ended ${moment(each.ended)}</span>`}
              <span class="faint small">since ${moment(each.recorded)}</span>
              ${may.write && each !== standing && html`<${Button} small class="push" icon="retry" disabled=${state.busy} onClick=${() => restore(each)}>Restore version ${each.version}<//>`}
            </div>
            <p class="norms-reading">${before ? html`<${Diff} from=${before.text} to=${each.text} />` : each.text}</p>
            ${(each.answer || before?.answer) && html`<p class="norms-reading soft">${before ? html`<${Diff} from=${before.answer ?? ""} to=${each.answer ?? ""} />` : each.answer}</p>`}
            ${before ? html`<${Others} from=${before} to=${each} />` : html`<${Marks} item=${{ ...each, version: 1 }} />`}
          </li>`;
      })}
    </ol>`;
}
