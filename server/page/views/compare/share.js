// The whole set-up in an address: columns, settings and questions, compressed into the fragment. No key, no answers.
import { base } from "../../core/api.js";
import { pack, unpack } from "../../core/packed.js";
import { isColumn, settingsOf } from "./checked.js";
import { MOST_COLUMNS, draft, fresh, setup, turns } from "./state.js";

/** The address that opens this set-up anew. */
export async function address() {
  const { columns, settings } = setup.get();
  const state = {
    columns: columns.map(({ model, alignment }) => ({ model, alignment })),
    settings,
    turns: turns.get().map(({ text, images }) => (images.length ? { text, images } : { text })),
    draft: draft.get().text,
  };
  return `${base.href}#/compare?set=${await pack(state)}`;
}

/** A set-up out of an address: `{columns, settings, draft, questions}`. Raises an Error that says what is wrong. */
export async function read(text) {
  let state;
  try {
    state = await unpack(text);
  } catch {
    throw new Error("This link is not whole: its set-up can't be read.");
  }
  const columns = (Array.isArray(state?.columns) ? state.columns : []).filter(isColumn).slice(0, MOST_COLUMNS);
  if (!columns.length) throw new Error("This link holds no columns.");
  const asked = (Array.isArray(state.turns) ? state.turns : []).filter((turn) => typeof turn?.text === "string");
  return {
    columns: columns.map(({ model, alignment }) => ({ model, alignment })),
    settings: settingsOf(state.settings),
    draft: typeof state.draft === "string" ? state.draft : "",
    questions: asked.map(({ text: said, images }) => ({ text: said, images: pictures(images) })),
  };
}

/** Takes over such a set-up, but for its questions: a link asks a model nothing. */
export function take({ columns, settings, draft: text }) {
  setup.set({ columns: columns.map((column) => ({ ...column, id: fresh() })), settings });
  draft.set({ text, images: [] });
}

/** Only pictures that are in the link itself: an address would be fetched by whoever opens it. */
const pictures = (images) =>
  (Array.isArray(images) ? images : []).filter((url) => typeof url === "string" && /^data:image\/[a-z0-9.+-]+;base64,/i.test(url));
