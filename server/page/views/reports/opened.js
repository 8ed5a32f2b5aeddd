// The evaluation that is open.
import { html, useEffect, useState } from "../../core/html.js";
import { link } from "../../core/router.js";
import { useStore } from "../../core/store.js";
import { save, zip } from "../../core/zip.js";
import { Button } from "../../ui/controls.js";
import { Empty, Failed, Loading, View } from "../../ui/view.js";
import { Browser } from "./browser.js";
import { files } from "./evaluation.js";
import { listed, opened, takeFromServer } from "./files.js";

export function Opened({ query }) {
  const now = useStore(opened);
  const [fault, setFault] = useState(null);
  const wanted = query.get("from");
  useEffect(() => {
    if (now || !wanted) return;
    const control = new AbortController();
    listed(control.signal).then(async ({ data }) => {
      const found = data.find(({ name }) => name === wanted);
      if (!found) throw new Error(`The server has no report “${wanted}” any more.`);
      await takeFromServer(found, control.signal);
    }).catch((error) => error.name !== "AbortError" && setFault(error));
    return () => control.abort();
  }, [wanted, now]);
  const back = html`<a class="button small quiet" href=${link("reports")}>All reports</a>`;
  if (!now) {
    return html`<${View} title="Report" actions=${back}>
      ${fault ? html`<${Failed} error=${fault} />` : wanted ? html`<${Loading} what="Reading the records" />` : html`
        <${Empty} title="No evaluation is open" icon="chart"><p>Records that were opened from files stay in the tab that opened them.</p><a class="button" href=${link("reports")}>Open one<//><//>`}
    <//>`;
  }
  const actions = html`
    ${now.voted && html`<${Button} small icon="download" onClick=${() => save(zip(named(now)), `${now.name}.zip`)}>Export with votes<//>`}${back}`;
  return html`
    <${View} title=${now.name} about="Read from its raw records" actions=${actions}>
      <${Browser} evaluated=${now} query=${query} path=${["open"]} more=${now.source === "server" ? { from: now.name } : {}}
        onVoted=${(next) => opened.set({ ...next, source: now.source, voted: true })} />
    <//>`;
}

const named = (evaluated) => Object.fromEntries(Object.entries(files(evaluated)).map(([name, text]) => [`${evaluated.name}/${name}`, text]));
