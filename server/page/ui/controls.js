// Buttons and fields.
import { classes, html, useId, useState } from "../core/html.js";
import { Icon } from "./icons.js";
import { toast } from "./toast.js";

/** `kind`: "primary", "quiet", "danger" or none. With `label` and no children an icon alone, which the label names. */
export function Button({ kind, icon, small, label, pressed, class: more, children, ...rest }) {
  const alone = icon && !children;
  return html`
    <button type="button" class=${classes("button", kind, small && "small", alone && "icon", more)}
      aria-label=${label} title=${alone ? label : undefined} aria-pressed=${pressed} ...${rest}>
      ${icon && html`<${Icon} name=${icon} />`}${children}
    </button>`;
}

/** A label over a control, with a hint or what is wrong below it. `children(id, described)` makes the control. */
export function Field({ label, hint, wrong, class: more, children }) {
  const id = useId();
  const about = hint || wrong ? `${id}-about` : undefined;
  return html`
    <div class=${classes("field", more)}>
      <label for=${id}>${label}</label>
      ${children(id, { "aria-describedby": about, "aria-invalid": wrong ? "true" : undefined })}
      ${wrong ? html`<div class="wrong" id=${about}>${wrong}</div>` : hint && html`<div class="hint" id=${about}>${hint}</div>`}
    </div>`;
}

export const Input = ({ label, hint, wrong, class: more, mono, onValue, ...rest }) => html`
  <${Field} label=${label} hint=${hint} wrong=${wrong} class=${more}>${(id, about) => html`
    <input class=${classes("input", mono && "mono")} id=${id} ...${about} ...${rest}
      onInput=${(event) => onValue(event.target.value)} />`}<//>`;

export const TextArea = ({ label, hint, wrong, class: more, mono, onValue, ...rest }) => html`
  <${Field} label=${label} hint=${hint} wrong=${wrong} class=${more}>${(id, about) => html`
    <textarea class=${classes("textarea", mono && "mono")} id=${id} spellcheck=${!mono} ...${about}
      ...${rest} onInput=${(event) => onValue(event.target.value)} />`}<//>`;

/** `options`: values, or `[value, text]`. */
export const Select = ({ label, hint, wrong, class: more, value, options, onValue, ...rest }) => html`
  <${Field} label=${label} hint=${hint} wrong=${wrong} class=${more}>${(id, about) => html`
    <select class="select" id=${id} ...${about} ...${rest} onChange=${(event) => onValue(event.target.value)}>
      ${options.map((each) => {
        const [option, text] = Array.isArray(each) ? each : [each, each];
        return html`<option key=${option} value=${option} selected=${option === value}>${text}</option>`;
      })}
    </select>`}<//>`;

export const Check = ({ label, checked, onValue, ...rest }) => html`
  <label class="check">
    <input type="checkbox" checked=${checked} onChange=${(event) => onValue(event.target.checked)} ...${rest} />
    <span>${label}</span>
  </label>`;

/** A number that may be left out: `onValue(null)` then. What is no number is said and not passed on. */
export function NumberInput({ value, onValue, whole, wrong, ...rest }) {
  const [bad, setBad] = useState(false);
  return html`<${Input} inputmode="decimal" autocomplete="off" ...${rest} value=${value ?? ""}
    wrong=${bad ? (whole ? "A whole number" : "A number") : wrong}
    onValue=${(text) => {
      const number = Number(text);
      const fits = text.trim() !== "" && Number.isFinite(number) && (!whole || Number.isInteger(number));
      setBad(text.trim() !== "" && !fits);
      if (text.trim() === "") onValue(null);
      else if (fits) onValue(number);
    }} />`;
}

/** JSON in a text area. `onValue(value)` when it is valid, `null` when empty; what is wrong with it stands below. */
export function JsonField({ value, onValue, check, ...rest }) {
  const [text, setText] = useState(() => (value === null || value === undefined ? "" : JSON.stringify(value, null, 2)));
  const [wrong, setWrong] = useState(null);
  return html`<${TextArea} mono ...${rest} value=${text} wrong=${wrong} onValue=${(typed) => {
    setText(typed);
    try {
      const read = typed.trim() === "" ? null : JSON.parse(typed);
      const fault = read === null ? null : (check?.(read) ?? null);
      setWrong(fault);
      if (!fault) onValue(read);
    } catch (error) {
      setWrong(error.message);
    }
  }} />`;
}

/** Copies a text, or what a function makes of the moment. */
export function CopyButton({ text, label = "Copy", small = true, ...rest }) {
  return html`<${Button} icon="copy" small=${small} label=${label} ...${rest} onClick=${async () => {
    await copy(typeof text === "function" ? await text() : text);
  }} />`;
}

/** Puts a text on the clipboard and says so. */
export async function copy(text, said = "Copied") {
  try {
    await navigator.clipboard.writeText(text);
    toast(said);
  } catch {
    // Over plain HTTP from another machine browsers give no clipboard: the old way.
    const area = document.createElement("textarea");
    area.value = text;
    (document.querySelector("dialog[open]") ?? document.body).append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    toast(done ? said : "This browser does not let pages copy.");
  }
}

export const Code = ({ text, label }) => html`
  <div class="code"><pre tabindex="0" aria-label=${label}>${text}</pre><${CopyButton} text=${text} label=${`Copy ${label}`} /></div>`;
