// Where evaluations come from: files, the server's folder, questions of one's own; and views that have a name.
import { classes, html, useEffect, useRef, useState } from "../../core/html.js";
import { count, moment, plural } from "../../core/format.js";
import { go, link } from "../../core/router.js";
import { may } from "../../core/server.js";
import { useStore } from "../../core/store.js";
import { Button } from "../../ui/controls.js";
import { Icon } from "../../ui/icons.js";
import { Failed, Loading, Notice, View } from "../../ui/view.js";
import { dropped, listed, opened, take, takeFromServer } from "./files.js";
import { draft, forget, fromFile, readViews, trouble, views } from "./named.js";
import { run } from "./run.js";

export function Home() {
  const [fault, setFault] = useState(null);
  const now = useStore(opened);
  const running = useStore(run, ({ state }) => state);
  return html`
    <${View} title="Reports" about="Evaluations, answer by answer">
      <div class="reports-home">
        <div class="stack">
          <${Drop} onFault=${setFault} />
          ${fault && html`<${Notice} kind="bad" alert>${fault}<//>`}
          ${now && html`<p class="row"><a class="button" href=${link("reports", ["open"])}>Back to “${now.name}”</a></p>`}
          <${Served} onFault=${setFault} />
        </div>
        <div class="stack">
          <section class="card card-body stack" aria-labelledby="reports-try">
            <h2 id="reports-try">Questions of your own</h2>
            <p class="soft">The same questions under a baseline and a candidate: what gets better, what gets worse.</p>
            <p class="row"><a class="button primary" href=${link("reports", ["try"])}><${Icon} name="columns" />${running === "none" ? "Try two alignments" : "Back to the run"}</a></p>
          </section>
          <${Views} />
        </div>
      </div>
    <//>`;
}

function Drop({ onFault }) {
  const [over, setOver] = useState(false);
  const [busy, setBusy] = useState(false);
  const folder = useRef(null);
  const some = useRef(null);
  const open = async (files) => {
    setBusy(true);
    onFault(null);
    try {
      const view = files.length === 1 && /\.json$/i.test(files[0].name) ? fromFile(await files[0].text()) : null;
      if (view) {
        draft.set(view);
        go("reports", ["try"]);
      } else {
        await take(files);
        go("reports", ["open"]);
      }
    } catch (error) {
      onFault(error.message);
    }
    setBusy(false);
  };
  const chosen = (event) => {
    const files = [...event.target.files];
    event.target.value = "";
    if (files.length) open(files);
  };
  return html`
    <section class=${classes("reports-drop", over && "over")} aria-label="Open an evaluation"
      onDragOver=${(event) => { event.preventDefault(); setOver(true); }}
      onDragLeave=${() => setOver(false)}
      onDrop=${async (event) => { event.preventDefault(); setOver(false); open(await dropped(event.dataTransfer)); }}>
      <${Icon} name="chart" size=${24} />
      <h2>Open an evaluation</h2>
      <p class="soft">Drop the folder that <code>heedful eval run</code> wrote and <code>heedful report</code> reads, or its files.
        They stay in this tab.</p>
      ${busy ? html`<${Loading} what="Reading the records" />` : html`
        <div class="row">
          <${Button} kind="primary" onClick=${() => folder.current.click()}>Choose a folder<//>
          <${Button} onClick=${() => some.current.click()}>Choose files<//>
        </div>`}
      <input ref=${folder} class="reports-file" type="file" webkitdirectory tabindex="-1" aria-label="Folder of an evaluation" onChange=${chosen} />
      <input ref=${some} class="reports-file" type="file" multiple accept=".json,.jsonl" tabindex="-1" aria-label="Files of an evaluation" onChange=${chosen} />
    </section>`;
}

function Served({ onFault }) {
  const [found, setFound] = useState({ state: "loading" });
  const [reading, setReading] = useState(null);
  const operator = may("operator");
  useEffect(() => {
    if (!operator) return;
    const control = new AbortController();
    listed(control.signal).then(
      (list) => setFound({ state: "ready", ...list }),
      (error) => error.name !== "AbortError" && setFound({ state: "failed", error }),
    );
    return () => control.abort();
  }, [operator]);
  const open = async (report) => {
    setReading(report.name);
    onFault(null);
    try {
      await takeFromServer(report);
      go("reports", ["open"]);
    } catch (error) {
      onFault(error.message);
    }
    setReading(null);
  };
  return html`
    <section class="card" aria-labelledby="reports-served">
      <header class="card-head"><h2 id="reports-served">On this server</h2></header>
      ${!operator && html`<p class="card-body soft">Its reports are for who runs it: an admin of the tenant “default”.</p>`}
      ${operator && found.state === "loading" && html`<${Loading} what="Looking for reports" />`}
      ${found.state === "failed" && html`<div class="card-body"><${Failed} error=${found.error} /></div>`}
      ${found.state === "ready" && !found.data.length && html`
        <p class="card-body soft">${found.configured
          ? "The folder of reports holds no records yet."
          : html`Start it with <code>heedful serve --reports FOLDER</code>, and the evaluations in that folder are listed here.`}</p>`}
      ${found.state === "ready" && found.data.length > 0 && html`
        <ul class="reports-list">${found.data.map((report) => html`
          <li key=${report.name}>
            <button type="button" class="reports-entry" disabled=${reading !== null} onClick=${() => open(report)}>
              <strong>${report.name}</strong>
              <span class="faint small">${moment(report.changed)}, ${plural(report.files.length, "file")}, ${size(report.files)}</span>
              ${reading === report.name && html`<span class="spinner" aria-label="Reading" />`}
            </button>
          </li>`)}</ul>`}
    </section>`;
}

function size(files) {
  const bytes = files.reduce((sum, each) => sum + each.size, 0);
  return bytes < 2 ** 20 ? `${count(Math.ceil(bytes / 1024))} KiB` : `${(bytes / 2 ** 20).toFixed(1)} MiB`;
}

function Views() {
  const all = useStore(views);
  const wrong = useStore(trouble);
  useEffect(() => {
    if (all === null) readViews();
  }, []);
  return html`
    <section class="card" aria-labelledby="reports-views">
      <header class="card-head"><h2 id="reports-views">Named views</h2></header>
      ${wrong && html`<div class="card-body"><${Notice} kind="bad">${wrong}<//></div>`}
      ${!all?.length && html`<p class="card-body soft">Questions, columns and filters can be given a name. They stay in this browser, and leave it as a link or a file.</p>`}
      ${all?.length > 0 && html`
        <ul class="reports-list">${all.map((view) => html`
          <li key=${view.id} class="reports-view">
            <button type="button" class="reports-entry" onClick=${() => { draft.set(view); go("reports", ["try"], view.filters); }}>
              <strong>${view.id}</strong>
              <span class="faint small">${view.columns.map(({ model, alignment }) => `${model} · ${Array.isArray(alignment) ? "own steps" : (alignment ?? "default")}`).join(" / ")}</span>
            </button>
            <${Button} small kind="quiet" icon="trash" label=${`Forget the view ${view.id}`} onClick=${() => forget(view.id)} />
          </li>`)}</ul>`}
    </section>`;
}
