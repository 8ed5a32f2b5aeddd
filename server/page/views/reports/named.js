// Named views: a set-up (questions, columns, judge, filters) under a name, kept in this browser, as a link or a file.
import { base } from "../../core/api.js";
import { all, put, remove } from "../../core/database.js";
import { pack, unpack } from "../../core/packed.js";
import { isPlain } from "../../core/plain.js";
import { store } from "../../core/store.js";
import { isColumn } from "../compare/checked.js";

/** Of this browser, by name; null until they are read. */
export const views = store(null);
/** What went wrong with keeping them. */
export const trouble = store(null);
export const SETTINGS = { max_tokens: 256, temperature: null, seed: 0, concurrency: 4 };
export const EMPTY = { name: "", text: "", columns: [], settings: SETTINGS, judge: "", options: {}, filters: {} };
/** The set-up that is worked on; it outlives the view. */
export const draft = store(EMPTY);
export const LONGEST_LINK = 60_000; // signs, beyond which mail and chat cut it

const told = (error) => trouble.set(`Views can't be kept in this browser: ${error?.message ?? error}`);
const sorted = (rows) => rows.sort((a, b) => a.id.localeCompare(b.id));

export function readViews() {
  all("views").then((rows) => views.set(sorted(rows)), (error) => { views.set([]); told(error); });
}

export function keep(view) {
  const row = { ...view, id: view.name.trim() };
  views.set((before) => sorted([...(before ?? []).filter(({ id }) => id !== row.id), row]));
  put("views", row).catch(told);
}

export function forget(id) {
  views.set((before) => before.filter((each) => each.id !== id));
  remove("views", id).catch(told);
}

const FORMAT = "heedful.view/1";
export const asFile = (view) => new Blob([`${JSON.stringify({ format: FORMAT, ...checked(view) }, null, 2)}\n`], { type: "application/json" });
export const address = async (view) => `${base.href}#/reports/try?view=${await pack(checked(view))}`;

/** A set-up out of a link. Raises an Error that says what is wrong. */
export async function fromLink(text) {
  try {
    return checked(await unpack(text));
  } catch {
    throw new Error("This link is not whole: its view can't be read.");
  }
}

/** A set-up out of a file's text, or null where it is none. */
export function fromFile(text) {
  try {
    const read = JSON.parse(text);
    return read?.format === FORMAT ? checked(read) : null;
  } catch {
    return null;
  }
}

/** Only what a view has, of the kinds that it has: links and files come from anywhere. */
function checked(given) {
  const text = (value) => (typeof value === "string" ? value : "");
  const plain = (value) => (isPlain(value) ? value : {});
  const number = (value, usual, least, most) => (Number.isFinite(value) ? Math.min(most, Math.max(least, value)) : usual);
  const { max_tokens: longest, temperature, seed, concurrency } = plain(given.settings);
  return {
    name: text(given.name).slice(0, 200),
    text: text(given.text),
    columns: (Array.isArray(given.columns) ? given.columns : []).slice(0, 2).filter(isColumn).map(({ model, alignment }) => ({ model, alignment })),
    settings: {
      max_tokens: longest === null ? null : number(longest, SETTINGS.max_tokens, 1, 1e6),
      temperature: Number.isFinite(temperature) ? temperature : null,
      seed: Number.isInteger(seed) ? seed : null,
      concurrency: Math.round(number(concurrency, SETTINGS.concurrency, 1, 16)),
    },
    judge: text(given.judge),
    options: plain(given.options),
    filters: Object.fromEntries(Object.entries(plain(given.filters)).filter(([, value]) => typeof value === "string")),
  };
}
