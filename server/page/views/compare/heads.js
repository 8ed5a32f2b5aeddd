// The columns' heads: which model, under which alignment. They stay in sight while answers scroll.
import { html, useState } from "../../core/html.js";
import { server } from "../../core/server.js";
import { useStore } from "../../core/store.js";
import { Button } from "../../ui/controls.js";
import { AlignmentDialog } from "./alignment.js";
import { blind, changeColumn, letter, named, removeColumn } from "./state.js";

const OWN = "\u0000own"; // an option that no alignment is called

export function Heads({ columns }) {
  const unnamed = useStore(blind);
  return html`
    <section class="compare-heads" aria-label="Columns">
      ${columns.map((column, i) => html`<${Head} key=${column.id} column=${column} index=${i} alone=${columns.length === 1} />`)}
      ${unnamed && html`<p class="compare-blind small">Blind: answers are shuffled and have no names until you have voted.</p>`}
    </section>`;
}

function Head({ column, index, alone }) {
  const known = useStore(server);
  const [open, setOpen] = useState(false);
  const { id, model, alignment } = column;
  const name = letter(index);
  const found = known.models.find((each) => each.id === model);
  const names = found?.alignments ?? [];
  const own = Array.isArray(alignment);
  const lost = typeof alignment === "string" && !names.includes(alignment);
  const change = (fields) => changeColumn(id, fields);
  return html`
    <div class="compare-head">
      <span class="compare-letter" aria-hidden="true">${name}</span>
      <select class="select" aria-label=${`Model of ${name}`} onChange=${(event) => change({ model: event.target.value })}>
        ${known.models.map((each) => html`<option key=${each.id} value=${each.id} selected=${each.id === model}>${each.id}</option>`)}
      </select>
      <select class="select" aria-label=${`Alignment of ${name}`} title=${named(alignment)} onChange=${({ target }) => {
        if (target.value !== OWN) change({ alignment: target.value || null });
      }}>
        <option value="" selected=${alignment === null}>server default (${known.byDefault})</option>
        ${names.map((each) => html`<option key=${each} value=${each} selected=${each === alignment}>${each}</option>`)}
        ${own && html`<option value=${OWN} selected>${named(alignment)}</option>`}
        ${lost && html`<option value=${alignment} selected>${alignment}</option>`}
      </select>
      <${Button} kind="quiet" icon="sliders" label=${`Steps and options of ${name}`} onClick=${() => setOpen(true)} />
      <${Button} kind="quiet" icon="close" label=${`Remove column ${name}`} disabled=${alone} onClick=${() => removeColumn(id)} />
      ${open && html`
        <${AlignmentDialog} title=${`Alignment of ${name}`} alignment=${alignment} onClose=${() => setOpen(false)}
          onDone=${(steps) => { setOpen(false); change({ alignment: steps }); }} />`}
    </div>`;
}
