// The same questions under a baseline and a candidate: set up, run, looked at.
import { html, useEffect, useMemo, useRef, useState } from "../../core/html.js";
import { count, plural } from "../../core/format.js";
import { go, link } from "../../core/router.js";
import { server } from "../../core/server.js";
import { useStore } from "../../core/store.js";
import { save, zip } from "../../core/zip.js";
import { Button, Field, NumberInput, Select, TextArea } from "../../ui/controls.js";
import { SchemaForm } from "../../ui/schema-form.js";
import { Notice, View } from "../../ui/view.js";
import { Browser } from "./browser.js";
import { Column } from "./column.js";
import { files } from "./evaluation.js";
import { EXACT, LIKELIHOOD, judges } from "./judges.js";
import { trouble } from "./kept-run.js";
import { EMPTY, draft, fromLink } from "./named.js";
import { MOST, parse } from "./parse.js";
import { again, begin, columnsOf, discard, run, stop } from "./run.js";
import { ViewButtons } from "./view-buttons.js";

const FILTERS = ["a", "b", "judge", "set", "verdict", "find"];

export function Try({ query }) {
  const known = useStore(server);
  const set = useStore(draft);
  const now = useStore(run);
  const unkept = useStore(trouble);
  const [fault, setFault] = useState(null);
  const given = query.get("view");
  useEffect(() => {
    if (!given) return;
    fromLink(given).then((view) => {
      draft.set(view);
      setFault(null);
      go("reports", ["try"], view.filters, { replace: true });
    }, (error) => {
      setFault(error.message);
      go("reports", ["try"], {}, { replace: true });
    });
  }, [given]);
  useEffect(() => settle(known), [known, set.columns.length]);
  const read = useMemo(() => parse(set.text), [set.text]);
  const filters = Object.fromEntries(FILTERS.map((name) => [name, query.get(name)]).filter(([, value]) => value));
  const actions = html`
    <${ViewButtons} view=${{ ...set, filters }} />
    ${now.evaluated && now.state !== "running" && html`<${Button} small icon="download" onClick=${() => save(zip(exported(now.evaluated)), `${now.evaluated.name}.zip`)}>Export<//>`}
    <a class="button small quiet" href=${link("reports")}>All reports</a>`;
  return html`
    <${View} title=${set.name || "Questions of your own"} actions=${actions}>
      ${fault && html`<${Notice} kind="bad" alert>${fault}<//>`}
      ${unkept && html`<${Notice} kind="warn">${unkept}<//>`}
      <div class="stack">
        <details class="card reports-setup" open=${now.state === "none"}>
          <summary class="card-head"><h2>Set-up</h2><span class="faint small">${plural(read.items.length, "question")}, ${set.columns.length === 2 ? columnsOf(set).map(({ alignment }) => alignment).join(" / ") : "no columns yet"}</span></summary>
          <div class="card-body reports-sides">
            <${Questions} set=${set} read=${read} />
            <${Columns} set=${set} read=${read} known=${known} />
          </div>
        </details>
        <${Controls} set=${set} read=${read} now=${now} />
        ${now.state === "done" && now.unjudged > 0 && html`<${Notice} kind="warn" alert>${plural(now.unjudged, "answer")} could not be judged: ${now.fault}<//>`}
        ${now.evaluated && now.evaluated.answers.size > 0 && html`
          <${Browser} evaluated=${now.evaluated} query=${query} path=${["try"]} onVoted=${(next) => run.patch({ evaluated: next })} />`}
      </div>
    <//>`;
}

const exported = (evaluated) => Object.fromEntries(Object.entries(files(evaluated)).map(([name, text]) => [`${folder(evaluated.name)}/${name}`, text]));
const folder = (name) => name.replace(/[^\p{L}\p{N}._-]+/gu, "-").replace(/^[-.]+/, "") || "run";

/** Two columns where there are none: a model plain, and under the first alignment it can run. */
function settle({ models, byDefault }) {
  if (draft.get().columns.length === 2 || !models.length) return;
  const [{ id, alignments }] = models;
  const other = [byDefault, "principles", ...alignments].find((name) => name !== "direct" && alignments.includes(name)) ?? null;
  draft.patch({ columns: [{ model: id, alignment: "direct" }, { model: id, alignment: other }] });
}

function Questions({ set, read }) {
  const file = useRef(null);
  const references = read.items.filter(({ answer }) => answer).length;
  const shown = read.problems.slice(0, 5);
  return html`
    <div class="stack">
      <${TextArea} label="Questions" mono rows="10" value=${set.text} onValue=${(text) => draft.patch({ text })}
        placeholder=${'One a line; or JSON lines: {"prompt": "What is 7 + 8?", "answer": "15"}; or CSV with a column “prompt”'}
        hint=${`At most ${count(MOST)}. A reference in “answer” is optional; several stand with | between them.`} />
      <div class="row">
        <${Button} small icon="up" onClick=${() => file.current.click()}>Open a file<//>
        <input ref=${file} class="reports-file" type="file" accept=".jsonl,.json,.csv,.tsv,.txt" tabindex="-1" aria-label="File of questions" onChange=${async (event) => {
          const [chosen] = event.target.files;
          event.target.value = "";
          if (chosen) draft.patch({ text: await chosen.text(), name: set.name || chosen.name.replace(/\.[a-z]+$/i, "") });
        }} />
        <span class="soft small" role="status">${read.items.length ? `${plural(read.items.length, "question")} (${read.format}), ${references ? `${count(references)} with a reference` : "no references"}` : "No questions yet."}</span>
      </div>
      ${shown.length > 0 && html`<${Notice} kind="warn">${shown.map((text) => html`<div key=${text}>${text}</div>`)}${read.problems.length > shown.length && html`<div>and ${count(read.problems.length - shown.length)} more</div>`}<//>`}
    </div>`;
}

function Columns({ set, read, known }) {
  const references = read.items.some(({ answer }) => answer);
  const choices = judges(known.verifiers, references);
  const judge = choices.some(([value]) => value === set.judge) ? set.judge : "";
  const options = known.verifiers?.[judge]?.options;
  const change = (at, fields) => draft.set((before) => ({ ...before, columns: before.columns.map((each, i) => (i === at ? { ...each, ...fields } : each)) }));
  const settings = (fields) => draft.set((before) => ({ ...before, settings: { ...before.settings, ...fields } }));
  const numbers = set.settings;
  return html`
    <div class="stack">
      ${set.columns.map((column, at) => html`<${Column} key=${at} title=${at ? "Candidate" : "Baseline"} column=${column} known=${known} onChange=${(fields) => change(at, fields)} />`)}
      <${Select} label="Judged by" value=${judge} options=${choices} onValue=${(value) => draft.patch({ judge: value, options: {} })}
        hint=${judge === "" ? "You vote, item by item." : judge === EXACT ? "Right or wrong, as heedful eval counts it." : judge === LIKELIHOOD ? "Which of the two thinks the reference likelier, per token; it needs a model with tokens." : (known.verifiers[judge]?.about ?? "")} />
      ${options && Object.keys(options).length > 0 && html`<details><summary class="small soft">Options of ${judge}</summary><div class="reports-options"><${SchemaForm} options=${options} values=${set.options} onValues=${(values) => draft.patch({ options: values })} /></div></details>`}
      <div class="reports-numbers">
        <${NumberInput} label="Tokens at most" whole value=${numbers.max_tokens} onValue=${(value) => settings({ max_tokens: value })} />
        <${NumberInput} label="Temperature" value=${numbers.temperature} placeholder="the model's" onValue=${(value) => settings({ temperature: value })} />
        <${NumberInput} label="Seed" whole value=${numbers.seed} placeholder="none" onValue=${(value) => settings({ seed: value })} />
        <${Field} label="At once">${(id) => html`<input id=${id} class="input" type="number" min="1" max="16" value=${numbers.concurrency}
          onInput=${(event) => settings({ concurrency: Math.min(16, Math.max(1, Math.round(Number(event.target.value)) || 1)) })} />`}<//>
      </div>
    </div>`;
}

function Controls({ set, read, now }) {
  const alike = set.columns.length === 2 && JSON.stringify(set.columns[0]) === JSON.stringify(set.columns[1]);
  const running = now.state === "running";
  const start = () => {
    const { name, columns, settings, judge, options } = set;
    begin({ name: name.trim(), items: read.items, columns, settings, judge, options });
  };
  const left = now.state === "stopped" || (now.state === "done" && now.failed + now.unjudged > 0);
  return html`
    <div class="row reports-controls">
      ${running
        ? html`<${Button} icon="stop" onClick=${stop}>Stop<//>`
        : html`<${Button} kind="primary" icon="send" disabled=${!read.items.length || alike || set.columns.length < 2} onClick=${start}>
            Ask ${read.items.length ? plural(2 * read.items.length, "time") : ""}<//>`}
      ${!running && now.state !== "none" && html`<${Button} kind="quiet" icon="trash" onClick=${discard}>Discard the run<//>`}
      ${left && html`<${Button} icon="retry" onClick=${again}>${now.state === "done" ? "Ask again what failed" : "Go on"}<//>`}
      ${alike && html`<span class="soft small">Baseline and candidate are the same: choose another alignment or model.</span>`}
      ${now.state !== "none" && html`
        <progress class="reports-progress" max=${now.total} value=${now.done} aria-label="Answers that have come" />
        <span class="soft small nums">${count(now.done)} of ${count(now.total)} answers${now.failed ? `, ${count(now.failed)} failed` : ""}${now.state === "stopped" ? ", stopped" : ""}</span>`}
      ${!running && now.state === "none" && set.text !== EMPTY.text && html`<${Button} kind="quiet" onClick=${() => draft.set(EMPTY)}>Clear<//>`}
    </div>`;
}
