// What the server is: who we are to it, its models and its alignments. Read once, and again when the key changes.
import { call } from "./api.js";
import { key } from "./key.js";
import { store } from "./store.js";

/**
 * `state`: "loading", "ready" or "failed" (then `error`). `who` is /v1/alignment/whoami's answer; `models` those that
 * answer (without MODEL@ALIGNMENT and embedders), each with `alignments`, the names it can run; `alignments`,
 * `strategies` and `verifiers` as GET /v1/alignment has them, `byDefault` the alignment of a request that names none.
 */
export const server = store({ state: "loading", error: null, who: null, models: [], alignments: {}, strategies: {} });
let current = 0;

export async function readServer() {
  const turn = ++current;
  server.patch({ state: "loading", error: null });
  try {
    const [who, listed, about, version] = await Promise.all(
      ["v1/alignment/whoami", "v1/models", "v1/alignment", "version"].map((path) => call(path)),
    );
    if (turn !== current) return;
    const { default: byDefault, alignments, strategies, verifiers } = about;
    server.set({
      state: "ready", error: null, who, models: answering(listed.data), alignments, strategies, verifiers, byDefault,
      version: version.version,
    });
  } catch (error) {
    if (turn === current) server.patch({ state: "failed", error });
  }
}

key.watch(() => {
  if (server.get().state !== "loading") readServer();
});

/** Whose key it is, as far as what may be read hangs on it: another key of the same role and tenant is nobody else. */
export const identity = (who) => `${who.tenant} ${who.role}`;

/** Calls `forget` when the page is somebody else's than it was: what was read for that one is not for this one. */
export function whenOther(forget) {
  let last = null;
  server.watch(({ who }) => {
    if (!who) return;
    if (last !== null && last !== identity(who)) forget();
    last = identity(who);
  });
}

function answering(entries) {
  const models = entries.filter((each) => !each.root && !each.capabilities?.includes("embeddings"));
  return models.map((model) => ({
    ...model,
    alignments: entries.filter((each) => each.root === model.id).map((each) => each.id.slice(model.id.length + 1)),
  }));
}

const RANKS = ["user", "author", "admin"];

/** Whether the key's role is this one or a higher one; "operator" is an admin of the tenant `default`. */
export function may(role, who = server.get().who) {
  if (!who) return false;
  return role === "operator" ? who.operator : RANKS.indexOf(who.role) >= RANKS.indexOf(role);
}
