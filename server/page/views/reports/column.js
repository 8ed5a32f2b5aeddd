// One of two columns: a model, and a named alignment or steps of one's own.
import { html, useState } from "../../core/html.js";
import { Button, Select } from "../../ui/controls.js";
import { AlignmentDialog } from "../compare/alignment.js";
import { named } from "../compare/state.js";

const OWN = "\u0000own"; // an option that no alignment is called

export function Column({ title, column, known, onChange }) {
  const [open, setOpen] = useState(false);
  const { model, alignment } = column;
  const names = known.models.find(({ id }) => id === model)?.alignments ?? [];
  const others = [
    ["", `server default (${known.byDefault})`],
    ...names,
    ...(Array.isArray(alignment) ? [[OWN, named(alignment)]] : typeof alignment === "string" && !names.includes(alignment) ? [alignment] : []),
  ];
  const models = known.models.map(({ id }) => id);
  return html`
    <fieldset class="reports-column">
      <legend class="legend">${title}</legend>
      <div class="reports-pair">
        <${Select} label="Model" value=${model} options=${models.includes(model) ? models : [...models, model]} onValue=${(value) => onChange({ model: value })} />
        <${Select} label="Alignment" value=${Array.isArray(alignment) ? OWN : (alignment ?? "")} options=${others}
          onValue=${(value) => value !== OWN && onChange({ alignment: value || null })} />
        <${Button} kind="quiet" icon="sliders" label=${`Steps and options of the ${title.toLowerCase()}`} onClick=${() => setOpen(true)} />
      </div>
      ${open && html`<${AlignmentDialog} title=${`Alignment of the ${title.toLowerCase()}`} alignment=${alignment} onClose=${() => setOpen(false)}
        onDone=${(steps) => { setOpen(false); onChange({ alignment: steps }); }} />`}
    </fieldset>`;
}
