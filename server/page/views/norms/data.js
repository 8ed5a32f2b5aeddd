// What is asked of the stores' API, and what of it outlives the view. Nothing here draws.
import { call, send } from "../../core/api.js";
import { useEffect, useState } from "../../core/html.js";
import { key } from "../../core/key.js";
import { whenOther } from "../../core/server.js";
import { store, useStore } from "../../core/store.js";
import { save } from "../../core/zip.js";

const at = (name, ...rest) => ["v1/alignment/stores", name, ...rest].filter((part) => part !== undefined).map((part, i) => (i ? encodeURIComponent(part) : part)).join("/");

/** How often something was written here: who shows what stands reads it anew. */
export const changes = store(0);
const changed = (made) => {
  changes.set((n) => n + 1);
  return made;
};

/** Drafts of forms, by `STORE/ID` or `new`: they outlive the drawer. */
export const drafts = store({});
whenOther(() => drafts.set({}));
export const setDraft = (name, draft) => drafts.set(({ [name]: _, ...rest }) => (draft ? { ...rest, [name]: draft } : rest));

export const readStores = (signal) => call(at(), { signal });
export const makeStore = (name) => call(at(name), { method: "PUT" }).then(changed);
export const dropStore = (name) => call(at(name), { method: "DELETE" }).then(changed);
export const readHistory = (name, id, signal) => call(at(name, "history", id), { signal }).then(({ data }) => data);

/** A page of items. `filter`: `{kind, scope, tag, mandatory, valid, asOf}`, each of them or nothing. */
export function readPage(name, { kind, scope, tag, mandatory, valid, asOf }, after, signal) {
  const query = new URLSearchParams({ limit: 50, after: after ?? 0 });
  const given = { kind, scope, tag, mandatory, at: valid && new Date().toISOString(), as_of: asOf };
  for (const [field, value] of Object.entries(given)) if (value) query.set(field, value);
  return call(`${at(name, "items")}?${query}`, { signal });
}

/** The nearest in meaning, with scores. */
export function search(name, query, { kind, scope, tag, mandatory, valid }, signal) {
  const body = { query, k: 50, at: valid ? new Date().toISOString() : "any" };
  if (kind) body.kind = kind;
  if (scope) body.scopes = [scope];
  if (tag) body.tags = [tag];
  if (mandatory) body.mandatory = mandatory === "true";
  return call(at(name, "search"), { body, signal });
}

/** Writes an item. `version`: the one that it is based on; null: none stands; undefined: whatever stands. */
export const write = (name, item, version) => call(at(name, "items"), { body: item, headers: condition(version) }).then(changed);
export const end = (name, id, version) => call(at(name, "items", id), { method: "DELETE", headers: condition(version) }).then(changed);
export const erase = (name, id) => call(`${at(name, "items", id)}?erase=true`, { method: "DELETE" }).then(changed);

const condition = (version) => (version === undefined ? {} : version === null ? { "if-none-match": "*" } : { "if-match": `"${version}"` });

/** What a file would do (`dry`), or does. `charset`: the file's, or nothing. */
export function importFile(name, blob, { format, charset, skipBad, dry }) {
  const query = new URLSearchParams({ format, ...(dry ? { dry_run: "true" } : {}), ...(skipBad ? { skip_bad: "true" } : {}) });
  const body = new Blob([blob], { type: charset ? `text/plain; charset=${charset}` : "application/octet-stream" });
  const asked = call(`${at(name, "import")}?${query}`, { body });
  return dry ? asked : asked.then(changed);
}

export async function exportFile(name) {
  const response = await send(at(name, "export"));
  save(await response.blob(), `${name}.jsonl`);
}

/** `{value, error, loading, again}` of something that is read, and read anew when `deps` change or something is written. */
export function useLoad(load, deps) {
  const [state, set] = useState({ loading: true });
  const [turn, setTurn] = useState(0);
  const written = useStore(changes);
  const mine = useStore(key);
  useEffect(() => {
    const control = new AbortController();
    set(({ value }) => ({ value, loading: true }));
    load(control.signal).then(
      (value) => set({ value }),
      (error) => error.name !== "AbortError" && set({ error }),
    );
    return () => control.abort();
  }, [...deps, written, turn, mine]);
  return { ...state, again: () => setTurn((n) => n + 1) };
}
