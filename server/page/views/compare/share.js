// The whole set-up in an address: columns, settings and questions, compressed into the fragment. No key, no answers.
import { base } from "../../core/api.js";
import { draft, fresh, setup, SETTINGS, turns } from "./state.js";

/** The address that opens this set-up anew. */
export async function address() {
  const { columns, settings } = setup.get();
  const state = {
    columns: columns.map(({ model, alignment }) => ({ model, alignment })),
    settings,
    turns: turns.get().map(({ text, images }) => (images.length ? { text, images } : { text })),
    draft: draft.get().text,
  };
  const packed = await through(new Blob([JSON.stringify(state)]), new CompressionStream("deflate-raw"));
  return `${base.href}#/compare?set=${base64url(new Uint8Array(packed))}`;
}

/**
 * Takes over a set-up out of an address. Its questions are in the draft, the rest of them in `pending`: opening a link
 * asks a model nothing. Returns those questions. Raises an Error that says what is wrong.
 */
export async function take(text) {
  let state;
  try {
    const packed = Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
    const plain = await through(new Blob([packed]), new DecompressionStream("deflate-raw"));
    state = JSON.parse(new TextDecoder().decode(plain));
  } catch {
    throw new Error("This link is not whole: its set-up can't be read.");
  }
  const columns = (Array.isArray(state.columns) ? state.columns : []).slice(0, 4).filter(isColumn);
  const asked = (Array.isArray(state.turns) ? state.turns : []).filter((turn) => typeof turn?.text === "string");
  if (!columns.length) throw new Error("This link holds no columns.");
  const settings = { ...SETTINGS, ...(state.settings && typeof state.settings === "object" ? state.settings : {}) };
  if (typeof settings.system !== "string") settings.system = "";
  setup.set({ columns: columns.map((column) => ({ ...column, id: fresh() })), settings });
  draft.set({ text: typeof state.draft === "string" ? state.draft : "", images: [] });
  return asked.map(({ text: said, images }) => ({ text: said, images: pictures(images) }));
}

const isColumn = (column) =>
  typeof column?.model === "string" &&
  (column.alignment === null || typeof column.alignment === "string" || Array.isArray(column.alignment));

/** Only pictures that are in the link itself: an address would be fetched by whoever opens it. */
const pictures = (images) =>
  (Array.isArray(images) ? images : []).filter((url) => typeof url === "string" && /^data:image\/[a-z0-9.+-]+;base64,/i.test(url));

const through = (blob, transform) => new Response(blob.stream().pipeThrough(transform)).arrayBuffer();

function base64url(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 0x8000) text += String.fromCharCode(...bytes.subarray(i, i + 0x8000));
  return btoa(text).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}
