// What would change: the same questions with a norm and without it. Nothing here draws.
import { call } from "../../core/api.js";
import { setup, turns } from "../compare/state.js";

const split = (step) => (typeof step === "string" ? [step, {}] : [Object.keys(step)[0], Object.values(step)[0] ?? {}]);
const listed = (options) => [options.store ?? "norms"].flat();
const reads = (step, store) => {
  const [name, options] = split(step);
  return name === "norms" && listed(options).some((each) => each === store || each === `shared/${store}`);
};

/** An alignment's steps, where they are known: one that is configured under a name of its own does not tell its options. */
export function stepsOf(alignment, { strategies, byDefault }) {
  if (Array.isArray(alignment)) return alignment;
  const names = (alignment ?? byDefault ?? "").split("+").map((name) => name.trim());
  return names.every((name) => strategies[name]) ? names : null;
}

/** Ways to answer that read a store: Compare's columns, and the plain step. `[{name, model, steps}]`, no two alike. */
export function ways(store, known) {
  const plain = store === "norms" ? ["norms"] : [{ norms: { store } }];
  const models = known.models.map(({ id }) => id);
  const columns = setup.get().columns.map(({ model, alignment }) => ({ model, steps: stepsOf(alignment, known) }));
  const first = columns.find(({ model }) => models.includes(model))?.model ?? models[0];
  const all = [...columns.filter(({ steps }) => steps?.some((step) => reads(step, store))), ...models.map((model) => ({ model, steps: plain }))];
  const seen = new Map();
  for (const { model, steps } of all) {
    const name = `${model} · ${steps.map((step) => split(step)[0] + (Object.keys(split(step)[1]).length ? "*" : "")).join("+")}`;
    if (models.includes(model) && !seen.has(JSON.stringify([model, steps]))) seen.set(JSON.stringify([model, steps]), { name, model, steps });
  }
  return [...seen.values()].sort((a, b) => (b.model === first) - (a.model === first));
}

/** The steps with what is added to and left out of a store. */
export function changed(steps, store, { extra, without }) {
  let done = false;
  return steps.map((step) => {
    if (done || !reads(step, store)) return step;
    done = true;
    const [name, options] = split(step);
    const read = listed(options).find((each) => each === store || each === `shared/${store}`);
    const ids = without.map((id) => (Array.isArray(options.store) ? `${read}/${id}` : id));
    return { [name]: { ...options, ...(extra.length ? { extra: [...(options.extra ?? []), ...extra] } : {}), ...(ids.length ? { without: [...(options.without ?? []), ...ids] } : {}) } };
  });
}

/** Compare's questions in this browser, the last first. */
export const asked = () => distinct(turns.get().map(({ text }) => text).reverse());

/** Those of the records, the last first; only where texts are kept. */
export async function recorded(signal) {
  const { data } = await call("v1/alignment/records?limit=100", { signal });
  return distinct(data.map(({ question }) => question?.text).filter(Boolean));
}

const distinct = (texts) => [...new Set(texts.map((text) => text.trim()).filter(Boolean))];

/** One question's answer: `{text, used}`; `used` are the norms of the trace, or null where the server shows none. */
async function answer(model, pipeline, question, signal) {
  const { system, max_tokens: most } = setup.get().settings;
  const messages = [...(system?.trim() ? [{ role: "system", content: system }] : []), { role: "user", content: question }];
  const body = { model, messages, temperature: 0, seed: 0, max_tokens: most ?? 512, alignment: { pipeline, trace: true } };
  const { choices, alignment } = await call("v1/chat/completions", { body, signal });
  return { text: choices[0].message.content ?? "", notes: alignment?.trace?.filter(({ step }) => step === "norms") ?? null };
}

/** Both answers to a question, and what became of the norm: "used", "dropped", "absent", or null where nobody tells. */
export async function compare({ model, steps }, store, change, question, signal) {
  const [before, after] = await Promise.all([
    answer(model, steps, question, signal),
    answer(model, changed(steps, store, change), question, signal),
  ]);
  return { before, after, ...fate(before.notes, after.notes, change) };
}

function fate(before, after, { extra, without }) {
  const looked = extra.length ? after : before;
  if (!looked?.length) return { fate: null, entry: null };
  const is = (each) => (extra.length ? each.extra : without.includes(each.id) || without.some((id) => each.id?.endsWith(`/${id}`)));
  for (const [name, list] of [["used", "used"], ["dropped", "dropped"]]) {
    for (const note of looked) {
      const place = (note[list] ?? []).findIndex(is);
      if (place >= 0) return { fate: name, entry: { ...note[list][place], place: place + 1 } };
    }
  }
  return { fate: "absent", entry: null };
}
