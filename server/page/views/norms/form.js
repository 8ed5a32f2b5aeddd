// The form of an item.
import { html, useId } from "../../core/html.js";
import { isPlain } from "../../core/plain.js";
import { Check, Input, JsonField, Select, TextArea } from "../../ui/controls.js";

/** `form` as item.js has it; `wrong`: the ApiError that names a field, or null. */
export function ItemForm({ form, onForm, fresh, about, wrong }) {
  const names = useId();
  const set = (name) => (value) => onForm({ ...form, [name]: value });
  const field = (name) => ({ value: form[name], onValue: set(name), wrong: wrong?.param === name ? wrong.message : undefined });
  const demo = form.kind === "demo";
  return html`
    <div class="stack norms-form">
      ${fresh && html`<${Select} label="Kind" value=${form.kind} options=${[["norm", "norm: a rule that answers heed"], ["demo", "demonstration: a question with a good answer"]]} onValue=${set("kind")} />`}
      <${TextArea} label=${demo ? "Question" : "Norm"} rows=${demo ? 3 : 4} autofocus=${fresh} ...${field("text")}
        hint=${demo ? undefined : "One rule, as you would tell it to a colleague. It is found by what it means."} />
      ${demo && html`<${TextArea} label="Good answer" rows="7" ...${field("answer")} />`}
      <div class="grid">
        <${Input} label="Source" autocomplete="off" hint="stands before a norm in the prompt" ...${field("source")} />
        <${Input} label="Scope" autocomplete="off" list=${names} hint="empty: everywhere" ...${field("scope")} />
        <${Input} label="Tags" autocomplete="off" hint="with commas" ...${field("tags")} />
        <${Input} label="Valid from" type="datetime-local" ...${field("valid_from")} />
        <${Input} label="Valid until" type="datetime-local" ...${field("valid_until")} />
        ${fresh && html`<${Input} label="Id" autocomplete="off" mono placeholder="made from what it says" ...${field("id")} />`}
      </div>
      <datalist id=${names}>${(about?.scopes ?? []).map((scope) => html`<option key=${scope} value=${scope} />`)}</datalist>
      ${!demo && html`<${Check} label="Mandatory: it binds every answer in its scope, whatever the question" checked=${form.mandatory} onValue=${set("mandatory")} />`}
      <details><summary class="small soft">Meta: an object of your own</summary>
        <${JsonField} label="Meta" rows="3" value=${form.meta} onValue=${set("meta")} hint="JSON, or nothing"
          check=${(value) => (isPlain(value) ? null : "An object, as {…}")} /></details>
    </div>`;
}
