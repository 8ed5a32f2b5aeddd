// Rows of records, with fields of the kinds that they have: files come from anywhere, and what is drawn relies on them.
import { isPlain } from "../../core/plain.js";

/** A value as a text, whatever it is. */
export const text = (value) => (typeof value === "string" ? value : value === undefined || value === null ? "" : JSON.stringify(value));

/** Those fields of a row that are there, as texts. */
const texts = (row, ...names) =>
  Object.fromEntries(names.filter((name) => row[name] !== undefined && row[name] !== null).map((name) => [name, text(row[name])]));

export const itemOf = (row) => ({
  ...row, ...texts(row, "set", "id", "measure", "answer"), messages: (Array.isArray(row.messages) ? row.messages : []).filter(isPlain),
});

export const answerOf = (row) => ({
  ...row, ...texts(row, "set", "id", "model", "alignment", "finish_reason", "error"), text: text(row.text), cost: isPlain(row.cost) ? row.cost : {},
});

/** What somebody or something made of an answer, or of two. */
export const markOf = (row) => ({ ...row, ...texts(row, "set", "id", "model", "alignment", "judge", "measure", "a", "b") });
