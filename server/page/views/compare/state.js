// What is compared: the columns, the request's settings, the conversation. All of it outlives the view.
import { kept, local, store } from "../../core/store.js";
import { SETTINGS, isColumn, settingsOf } from "./checked.js";

export const MOST_COLUMNS = 4;

/**
 * A column: `id` (once and for all), `model`, and `alignment`: null (the server's default), a name, or a list of steps
 * as the body field has them. What is set up stays in this browser; the conversation in this page.
 */
export const setup = kept("compare", { columns: [], settings: SETTINGS }, local);
setup.set((before) => ({ columns: [before?.columns ?? []].flat().filter((each) => isColumn(each) && typeof each.id === "string"), settings: settingsOf(before?.settings) }));

/**
 * Turns: `{id, text, images, answers}`, `answers` by column id, each a store of
 * `{state, text, calls, error, seed, firstMs, totalMs, usage, trace, finish, asked, blind}`.
 * `state`: "waiting", "streaming", "done", "stopped", "failed". `asked` is the request as it was sent.
 */
export const turns = store([]);
export const draft = store({ text: "", images: [] });
/** "off", or the columns' order while they have no names: `{order: [id, ...], vote}` is in each turn. */
export const blind = kept("compare.blind", false, local);
export const differing = kept("compare.differences", false, local);

/** Whether a turn's answers have no names: the first one's, until there is a vote. */
export const unnamed = (turn, columns) => blind.get() && Boolean(turn) && !turn.vote && turn.id === turns.get()[0]?.id && columns.length > 1;

let last = 0;
export const fresh = () => `c${Date.now().toString(36)}${(++last).toString(36)}`;

export const letter = (index) => "ABCD"[index];

/**
 * Leaves out columns whose model is not here, and returns those models' names. Where none is left: the server's first
 * model plain, and under an alignment that it can run.
 */
export function settle({ models, byDefault }) {
  const { columns, settings } = setup.get();
  const known = columns.filter(({ model }) => models.some(({ id }) => id === model));
  const lost = [...new Set(columns.filter((column) => !known.includes(column)).map(({ model }) => model))];
  if (known.length || !models.length) {
    if (lost.length && known.length) setup.patch({ columns: known });
    return lost;
  }
  const [{ id, alignments }] = models;
  const other = [byDefault, "principles", ...alignments].find((name) => name !== "direct" && alignments.includes(name));
  const made = ["direct", other].filter(Boolean).map((alignment) => ({ id: fresh(), model: id, alignment }));
  setup.set({ columns: made, settings });
  return lost;
}

export const changeColumn = (id, fields) =>
  setup.set((before) => ({
    ...before,
    columns: before.columns.map((column) => (column.id === id ? { ...column, ...fields } : column)),
  }));

export function addColumn() {
  const { columns } = setup.get();
  if (columns.length < MOST_COLUMNS) setup.patch({ columns: [...columns, { ...columns.at(-1), id: fresh() }] });
}

export const removeColumn = (id) =>
  setup.set((before) => ({ ...before, columns: before.columns.filter((column) => column.id !== id) }));

export const changeSettings = (fields) =>
  setup.set((before) => ({ ...before, settings: { ...before.settings, ...fields } }));

/** An alignment in a few words. */
export function named(alignment) {
  if (alignment === null) return "server default";
  if (typeof alignment === "string") return alignment;
  return alignment.map((step) => (typeof step === "string" ? step : `${Object.keys(step)[0]}*`)).join("+");
}

/** What an evaluation calls it: the name where it has one, else its steps as JSON. */
export const written = (alignment) => (Array.isArray(alignment) ? JSON.stringify(alignment) : (alignment ?? "default"));
