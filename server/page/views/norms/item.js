// An item as people read it and as forms hold it. Nothing here draws.
import { moment } from "../../core/format.js";

const FIELDS = ["text", "answer", "source", "scope", "tags", "mandatory", "valid_from", "valid_until", "meta"];
export const NAMES = {
  text: "Text", answer: "Answer", source: "Source", scope: "Scope", tags: "Tags", mandatory: "Mandatory", valid_from: "Valid from",
  valid_until: "Valid until", meta: "Meta",
};

/** "norm", "demonstration". */
export const called = (kind) => (kind === "demo" ? "demonstration" : "norm");

/** A form's fields from an item, or empty ones. */
export const asForm = (item = {}) => ({
  kind: item.kind ?? "norm",
  id: item.id ?? "",
  text: item.text ?? "",
  answer: item.answer ?? "",
  source: item.source ?? "",
  scope: item.scope ?? "",
  tags: (item.tags ?? []).join(", "),
  mandatory: item.mandatory ?? false,
  valid_from: asLocal(item.valid_from),
  valid_until: asLocal(item.valid_until),
  meta: item.meta ?? null,
});

/** An item, as the API takes it, from a form's fields; what is empty is left out. */
export function asItem(form) {
  const tags = form.tags.split(",").map((tag) => tag.trim()).filter(Boolean);
  const item = {
    kind: form.kind, id: form.id.trim(), text: form.text.trim(), answer: form.kind === "demo" ? form.answer.trim() : "", source: form.source.trim(),
    scope: form.scope.trim(), tags, mandatory: form.kind === "norm" && form.mandatory, valid_from: asIso(form.valid_from),
    valid_until: asIso(form.valid_until), meta: form.meta,
  };
  const said = ([, value]) => value !== "" && value !== null && value !== false && !(Array.isArray(value) && !value.length);
  return Object.fromEntries(Object.entries(item).filter(said));
}

/** As `norms` takes one that is in no store. */
export const asInline = ({ text, source, scope, tags, mandatory }) => ({
  text, ...(source ? { source } : {}), ...(scope ? { scope } : {}), ...(tags?.length ? { tags } : {}), ...(mandatory ? { mandatory } : {}),
});

/** The fields in which two items differ. */
export const differing = (one = {}, other = {}) => FIELDS.filter((field) => shown(one[field]) !== shown(other[field]));

/** A field's value as a text. */
export function shown(value) {
  if (value === undefined || value === null || value === false || value === "") return "";
  if (value === true) return "yes";
  if (Array.isArray(value)) return value.join(", ");
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

const two = (n) => String(n).padStart(2, "0");

/** A moment as a field of the browser's has it, in its own time zone; seconds only where there are some. */
export function asLocal(value) {
  if (value === undefined || value === null || value === "") return "";
  const at = new Date(value);
  if (Number.isNaN(at.getTime())) return "";
  const day = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  return `${day}T${two(at.getHours())}:${two(at.getMinutes())}${at.getSeconds() ? `:${two(at.getSeconds())}` : ""}`;
}

export function asIso(local) {
  const at = new Date(local);
  return local && !Number.isNaN(at.getTime()) ? at.toISOString() : null;
}

/** A moment in words, without a time that is midnight. */
export const when = (value) => moment(value).replace(/, 00:00:00$/, "").replace(/(:\d\d):00$/, "$1");

/** "valid", "past" or "future". */
export function validity({ valid_from: from, valid_until: until }, now = Date.now()) {
  if (from && new Date(from) > now) return "future";
  return until && new Date(until) <= now ? "past" : "valid";
}
