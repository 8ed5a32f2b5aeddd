// The alignment of a column: a name, or steps of one's own with options, by form or as JSON.
import { html, useState } from "../../core/html.js";
import { server } from "../../core/server.js";
import { useStore } from "../../core/store.js";
import { Button, Field, JsonField } from "../../ui/controls.js";
import { Dialog } from "../../ui/dialog.js";
import { SchemaForm } from "../../ui/schema-form.js";
import { Tabs } from "../../ui/tabs.js";
import { Notice } from "../../ui/view.js";
import { isSteps } from "./checked.js";

const split = (step) => (typeof step === "string" ? [step, {}] : [Object.keys(step)[0], Object.values(step)[0] ?? {}]);
const step = ([name, options]) => (Object.keys(options).length ? { [name]: options } : name);

/** Steps of a named alignment, to begin with. */
export function stepsOf(alignment, { alignments, byDefault }) {
  if (Array.isArray(alignment)) return alignment;
  const name = alignment ?? byDefault;
  return Object.hasOwn(alignments, name) ? alignments[name] : String(name).split("+");
}

export function AlignmentDialog({ title, alignment, onDone, onClose }) {
  const known = useStore(server);
  const [steps, setSteps] = useState(() => stepsOf(alignment, known).map(split));
  const [tab, setTab] = useState("form");
  const fault = faultOf(steps, known.strategies);
  return html`
    <${Dialog} kind="wide" title=${title} onClose=${onClose} foot=${html`
      <${Button} kind="quiet" onClick=${onClose}>Cancel<//>
      <${Button} kind="primary" disabled=${Boolean(fault)} onClick=${() => onDone(steps.map(step))}>Use these steps<//>`}>
      <div class="stack">
        <${Tabs} label="How the steps are written" tabs=${[["form", "Form"], ["json", "JSON"]]} open=${tab} onOpen=${setTab}>
          ${tab === "form"
            ? html`<${Steps} steps=${steps} onSteps=${setSteps} strategies=${known.strategies} />`
            : html`<${JsonField} label="Steps" rows="14" value=${steps.map(step)} check=${faultOfJson}
                hint="A list of names and {name: {option: value}}, as the field alignment.pipeline takes it"
                onValue=${(read) => setSteps((read ?? []).map(split))} />`}
        <//>
        ${fault && html`<${Notice} kind="warn">${fault}<//>`}
      </div>
    <//>`;
}

function Steps({ steps, onSteps, strategies }) {
  const kind = (name) => strategies[name]?.kind;
  const names = Object.keys(strategies).sort((a, b) => (kind(a) === kind(b) ? a.localeCompare(b) : kind(a) === "context" ? -1 : 1));
  const change = (i, next) => onSteps(steps.map((each, j) => (j === i ? next : each)));
  const move = (i, by) => {
    const next = [...steps];
    next.splice(i + by, 0, ...next.splice(i, 1));
    onSteps(next);
  };
  return html`
    <ol class="stack">
      ${steps.map(([name, options], i) => html`
        <li key=${`${i} ${name}`} class="card">
          <div class="card-head">
            <h3>${i + 1}. ${name}</h3><span class="chip">${kind(name) ?? "unknown"}</span>
            <div class="row push">
              <${Button} small kind="quiet" icon="up" label=${`Move ${name} up`} disabled=${i === 0} onClick=${() => move(i, -1)} />
              <${Button} small kind="quiet" icon="down" label=${`Move ${name} down`} disabled=${i === steps.length - 1} onClick=${() => move(i, 1)} />
              <${Button} small kind="quiet" icon="trash" label=${`Remove ${name}`} onClick=${() => onSteps(steps.filter((_, j) => j !== i))} />
            </div>
          </div>
          <div class="card-body stack">
            ${strategies[name]?.about && html`<p class="soft small">${strategies[name].about}</p>`}
            ${strategies[name]?.details && html`<details class="small soft"><summary>About its options</summary><pre class="compare-about">${strategies[name].details}</pre></details>`}
            <${SchemaForm} options=${strategies[name]?.options ?? {}} values=${options} onValues=${(values) => change(i, [name, values])} />
          </div>
        </li>`)}
      <li>
        <${Field} label="Add a step">${(id) => html`
          <select id=${id} class="select compare-add" value="" onChange=${(event) => {
            if (event.target.value) onSteps([...steps, [event.target.value, {}]]);
            event.target.value = "";
          }}>
            <option value="">Choose a strategy …</option>
            ${names.map((name) => html`<option key=${name} value=${name}>${name} (${kind(name)})</option>`)}
          </select>`}<//>
      </li>
    </ol>`;
}

function faultOf(steps, strategies) {
  if (!steps.length) return "An alignment has at least one step; without any of its own it is “direct”.";
  const unknown = steps.find(([name]) => !Object.hasOwn(strategies, name));
  if (unknown) return `There is no strategy “${unknown[0]}” here. Known: ${Object.keys(strategies).join(", ")}.`;
  if (steps.filter(([name]) => strategies[name].kind === "decoding").length > 1) {
    return "Only one step can decode: a plan is context strategies and one that decodes.";
  }
  return null;
}

const faultOfJson = (value) => (isSteps(value) ? null : "A list of names and of objects with one name each, whose options are an object.");
