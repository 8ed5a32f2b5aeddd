// A form from a JSON Schema's properties, as GET /v1/alignment lists each strategy's options.
import { html } from "../core/html.js";
import { Check, Input, JsonField, NumberInput, Select } from "./controls.js";

/** "max_tokens" as a label reads: "max tokens". */
const label = (name) => name.replaceAll("_", " ");

/** What an option may be, in short: `{kind, schema, empty}`; `empty` where null, too, is allowed. */
function read(schema) {
  const several = schema.anyOf ?? schema.oneOf;
  if (!several) return { ...kindOf(schema), schema };
  const some = several.filter(({ type }) => type !== "null");
  const empty = some.length < several.length;
  if (some.length === 1) return { ...kindOf(some[0]), schema: { ...schema, ...some[0] }, empty };
  const words = some.find(({ type, enum: values }) => type === "string" && !values);
  const lists = some.find(({ type, items }) => type === "array" && items?.type === "string");
  if (words && lists) return { kind: "words or list", schema, empty };
  return { kind: "json", schema, empty };
}

function kindOf({ type, enum: values, items }) {
  if (values) return { kind: "choice" };
  if (type === "array" && items?.type === "string" && !items.enum) return { kind: "list" };
  return { kind: { string: "text", integer: "integer", number: "number", boolean: "switch" }[type] ?? "json" };
}

function bounds({ minimum, maximum, exclusiveMinimum, exclusiveMaximum }) {
  const low = minimum ?? exclusiveMinimum;
  const high = maximum ?? exclusiveMaximum;
  if (low !== undefined && high !== undefined) return `${low} to ${high}`;
  if (low !== undefined) return exclusiveMinimum !== undefined ? `above ${low}` : `${low} or more`;
  return high !== undefined ? `${high} at most` : "";
}

const shown = (value) => (value === "" ? "none" : typeof value === "string" ? value : JSON.stringify(value));

/** `values` holds what differs from the defaults; so does what `onValues` is given. `options`: name → schema. */
export function SchemaForm({ options, values, onValues }) {
  const names = Object.keys(options);
  if (!names.length) return html`<p class="faint small">It has no options.</p>`;
  const set = (name) => (value) => {
    const next = { ...values, [name]: value };
    const same = JSON.stringify(value) === JSON.stringify(options[name].default);
    if (value === undefined || (same && value !== null) || (value === null && !read(options[name]).empty)) delete next[name];
    if (value === null && options[name].default === null) delete next[name];
    onValues(next);
  };
  return html`<div class="grid">
    ${names.map((name) => html`<${Option} key=${name} name=${name} option=${options[name]} value=${values[name]} onValue=${set(name)} />`)}
  </div>`;
}

function Option({ name, option, value, onValue }) {
  const { kind, schema, empty } = read(option);
  const usual = option.default === undefined ? "" : `default ${shown(option.default)}`;
  const hint = [option.description, bounds(schema)].filter(Boolean).join("; ") || undefined;
  const common = { label: label(name), hint, name };
  if (kind === "choice") {
    const usually = option.default === undefined || option.default === null ? "not set" : `${shown(option.default)} (default)`;
    const others = schema.enum.filter((each) => each !== option.default);
    return html`<${Select} ...${common} value=${value === undefined ? "" : String(value)}
      options=${[["", usually], ...others.map((each) => [String(each), String(each)])]}
      onValue=${(text) => onValue(text === "" ? undefined : schema.enum.find((each) => String(each) === text))} />`;
  }
  if (kind === "switch") {
    return html`<div class="field"><span class="label">${label(name)}</span>
      <${Check} label=${`on${option.default ? " (default)" : ""}`} name=${name} checked=${value ?? option.default ?? false} onValue=${onValue} /></div>`;
  }
  if (kind === "integer" || kind === "number") {
    return html`<${NumberInput} ...${common} whole=${kind === "integer"} placeholder=${usual} value=${value}
      onValue=${(number) => onValue(number ?? undefined)} />`;
  }
  if (kind === "text") {
    return html`<${Input} ...${common} placeholder=${usual} value=${value ?? ""} onValue=${(text) => onValue(text === "" ? undefined : text)} />`;
  }
  if (kind === "list" || kind === "words or list") {
    const text = Array.isArray(value) ? value.join(", ") : (value ?? "");
    return html`<${Input} ...${common} hint=${hint ?? (kind === "list" ? "with commas" : "one, or several with commas")} placeholder=${usual}
      value=${text} onValue=${(typed) => onValue(listed(typed, kind))} />`;
  }
  return html`<${JsonField} ...${common} class="wide" rows="2" hint=${hint ?? (empty ? "JSON, or nothing" : "JSON")} placeholder=${usual}
    value=${value} onValue=${(given) => onValue(given ?? undefined)} />`;
}

function listed(text, kind) {
  if (text.trim() === "") return undefined;
  const words = text.split(",").map((word) => word.trimStart());
  if (kind === "words or list" && words.length === 1) return words[0];
  return words;
}
