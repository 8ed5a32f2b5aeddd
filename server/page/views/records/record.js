// What a record says, as the rest of the page knows an answer; and the request that asks the same again.

/** A text of a record, or what stands for it. */
export function said(part) {
  if (!part) return "";
  if (typeof part.text === "string") return part.text;
  return part.digest ? `${part.characters} characters, kept as a digest` : "";
}

/** The request's own steps, without the server's: those run again by themselves. */
export const stepsOf = (record) => (record.plan ?? []).slice(record.floor ?? 0).filter((step) => !("verify" in step));

const reads = (store, name) => (Array.isArray(store) ? store.includes(name) : store === name);

/** A record's notes with the items that were used in their places, with `texts` by `STORE/ID@VERSION` where known. */
function notes(record, texts) {
  const left = { norms: [...(record.norms ?? [])], demos: [...(record.demonstrations ?? [])] };
  return (record.trace ?? []).map((note) => {
    const items = left[note.step];
    if (!items) return note;
    const used = items.filter(({ store }) => reads(note.store, store));
    left[note.step] = items.filter((item) => !used.includes(item));
    return { ...note, used: used.map((item) => ({ ...texts.get(place(item)), ...item })) };
  });
}

export const place = ({ store, id, version }) => `${store}/${id}@${version}`;

/** As `Why` takes an answer. */
export function answerOf(record, texts = new Map()) {
  const { model, alignment, prompt = {}, answers = [], usage, stages } = record;
  return {
    model,
    alignment,
    messages: Array.isArray(prompt.messages) ? prompt.messages : [{ role: "user", content: said(record.question) }],
    text: said(answers[0]),
    usage,
    trace: { name: alignment, pipeline: stepsOf(record).map((step) => Object.keys(step)[0]), usage: stages ?? {}, answer: null, trace: notes(record, texts) },
    live: false,
  };
}

const READERS = ["norms", "demos"];
/** Whether a record's own steps read stores. */
export const readsStores = (record) => stepsOf(record).some((step) => READERS.includes(Object.keys(step)[0]));

/** Why a record can't be replayed here, or null. */
export function unplayable(record, { who, models }) {
  if (record.tenant !== who.tenant) return `It is of the tenant “${record.tenant}”: only its own key asks with its own norms.`;
  if (!ROUTES[record.route]) return `A request of ${record.route || "an unknown path"} can't be sent again from here.`;
  if (!record.prompt || "digest" in record.prompt || !Object.keys(record.prompt).length) {
    return "Its texts were kept as digests, so what was asked is not known.";
  }
  if (!models.some(({ id }) => id === record.model)) return `The model “${record.model}” is not served here any more.`;
  return null;
}

/** What an option is by default, which need not be said. */
function pruned(name, options, strategies) {
  const known = strategies[name]?.options ?? {};
  const same = (option, value) => JSON.stringify(known[option]?.default) === JSON.stringify(value);
  return Object.fromEntries(Object.entries(options ?? {}).filter(([option, value]) => value !== null && !same(option, value)));
}

/** How much variety the demonstrations of a record were picked with, which can't be told of a store as it stood then; 0: none. */
export const varietyOf = (record) => Math.max(0, ...stepsOf(record).map((step) => step.demos?.diversity ?? 0));

/**
 * The body of the same request, by the steps that ran then; `asOf`: with the stores as they stood at that time. The
 * words of a prompt and what a verifier was set up with are those of now.
 */
export function bodyOf(record, { asOf = null, strategies = {} }) {
  const pipeline = stepsOf(record).map((step) => {
    const [[name, given]] = Object.entries(step);
    const options = pruned(name, given, strategies);
    if (asOf && READERS.includes(name)) {
      options.as_of ??= asOf;
      if (name === "demos") delete options.diversity;
    }
    return Object.keys(options).length ? { [name]: options } : name;
  });
  return { ...record.prompt, ...record.parameters, model: record.model, alignment: { pipeline, trace: true } };
}

const joined = (parts) => (parts ?? []).map(({ text }) => text ?? "").join("");
const ROUTES = {
  "/v1/chat/completions": ({ choices }) => choices?.[0]?.message?.content ?? "",
  "/v1/completions": ({ choices }) => choices?.[0]?.text ?? "",
  "/v1/responses": ({ output }) => (output ?? []).map(({ content }) => joined(content)).join(""),
  "/v1/messages": ({ content }) => joined(content),
};

/** The text of an answer of a route. */
export const textOf = (route, answer) => ROUTES[route](answer);

/** The norms of a trace, as a record has them. */
export const normsIn = (trace) =>
  (trace?.trace ?? []).filter(({ step }) => READERS.includes(step)).flatMap((note) =>
    (note.used ?? []).map((item) => ({ store: note.store, ...item, id: item.store ? item.id.replace(`${item.store}/`, "") : item.id })));
