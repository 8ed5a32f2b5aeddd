// The same questions under a baseline and a candidate. A run outlives the view, and becomes an evaluation as it goes.
import { whenOther } from "../../core/server.js";
import { store } from "../../core/store.js";
import { callTraced } from "../../core/traced.js";
import { announce } from "../../ui/toast.js";
import { written } from "../compare/state.js";
import { evaluation } from "./evaluation.js";
import { LIKELIHOOD, judged, likelihoodOf, measureOf, preferred } from "./judges.js";
import { forget, recall, remember } from "./kept-run.js";
import { draft } from "./named.js";

/**
 * `state`: "none", "running", "stopped" or "done"; `done` of `total` answers; `failed`: how many there are not;
 * `unjudged`: how many have no verdict because the judge failed, and `fault`: its words; `plan`: what was asked for;
 * `evaluated`: what came back, as an evaluation.
 */
const NONE = { state: "none", done: 0, total: 0, failed: 0, unjudged: 0, fault: null, plan: null, evaluated: null };
export const run = store(NONE);
const EVERY = 250; // milliseconds
const KEPT_EVERY = 1000; // milliseconds, while it runs
let control = null;
let rows = null;
let keeping = null;

run.watch(({ state }) => {
  if (state === "none") return;
  const save = () => {
    clearTimeout(keeping);
    keeping = null;
    if (run.get().state !== "none") remember({ run: run.get(), rows, draft: draft.get() });
  };
  if (state !== "running") save();
  else keeping ??= setTimeout(save, KEPT_EVERY);
});
whenOther(() => leave());

/** The run that this tab made before it was reloaded; one that was under way has been stopped by that. */
export async function restore() {
  const found = run.get().state === "none" ? await recall() : null;
  if (!found || run.get().state !== "none") return;
  rows = found.rows;
  if (!draft.get().text) draft.set(found.draft);
  const { state, ...told } = found.run;
  run.set({ ...told, state: state === "running" ? "stopped" : state });
}

function leave() {
  control?.abort();
  control = null;
  run.set(NONE);
}

/** Ends it, and forgets what came back. */
export function discard() {
  leave();
  forget();
}

/** What the records of a run call its two columns: one model's alignments, else MODEL@ALIGNMENT. */
export function columnsOf({ columns: [a, b] }) {
  const alone = a.model === b.model;
  const name = ({ model, alignment }) => (alone ? written(alignment) : `${model}@${written(alignment)}`);
  return [a, b].map((column) => ({ model: alone ? a.model : "several models", alignment: name(column) }));
}

/** `plan`: `{name, items, columns: [{model, alignment}, …], settings, judge, options}`. */
export function begin(plan) {
  const items = plan.items.map((item) => ({ set: plan.name || "page", id: item.id, measure: item.measure ?? measureOf(plan.judge, item.answer), messages: item.messages, ...(item.answer ? { answer: item.answer } : {}) }));
  rows = { items, answers: new Map(), judgements: new Map(), comparisons: new Map(), scores: new Map(), unjudged: new Map() };
  return work(plan, items.flatMap((item) => [0, 1].map((at) => ({ item, at }))));
}

/** Asks again what ended in an error or was not asked. */
export function again() {
  const { plan } = run.get();
  const left = rows.items.flatMap((item) => [0, 1].map((at) => ({ item, at }))).filter((job) => {
    const row = rows.answers.get(name(job));
    return !row || row.error || rows.unjudged.has(name(job));
  });
  return work(plan, left);
}

export const stop = () => control?.abort();

const name = ({ item, at }) => `${at} ${item.set}/${item.id}`;

async function work(plan, jobs) {
  control?.abort();
  const mine = (control = new AbortController());
  const started = performance.now();
  run.set({ state: "running", done: 0, total: jobs.length, failed: 0, unjudged: 0, fault: null, plan, evaluated: snapshot(plan) });
  const waiting = jobs.values();
  let done = 0;
  let later = null;
  // Answers come faster than a table of them can be drawn: some at a time.
  const show = () => {
    later ??= setTimeout(() => {
      later = null;
      if (control === mine && run.get().state === "running") run.patch({ done, ...lacking(), evaluated: snapshot(plan) });
    }, EVERY);
  };
  const worker = async () => {
    for (const job of waiting) {
      if (mine.signal.aborted) return;
      await ask(plan, job, mine.signal);
      if (mine.signal.aborted || control !== mine) return;
      done++;
      show();
    }
  };
  await Promise.all(Array.from({ length: Math.min(plan.settings.concurrency, jobs.length) }, worker));
  clearTimeout(later);
  if (control !== mine) return;
  const state = mine.signal.aborted ? "stopped" : "done";
  run.patch({ state, done, ...lacking(), evaluated: snapshot(plan) });
  announce(`The run ${state === "done" ? "is over" : "was stopped"}: ${done} of ${jobs.length} answers in ${Math.round((performance.now() - started) / 1000)} seconds`);
}

const failures = () => [...rows.answers.values()].filter(({ error }) => error).length;
/** What the judge has said instead of a verdict, the first time; null where it always gave one. */
const fault = () => rows.unjudged.values().next().value ?? null;
const lacking = () => ({ failed: failures(), unjudged: rows.unjudged.size, fault: fault() });

async function ask(plan, job, signal) {
  const { item, at } = job;
  const column = plan.columns[at];
  const body = bodyOf(column, item, plan.settings);
  const about = { set: item.set, id: item.id, ...columnsOf(plan)[at] };
  const began = performance.now();
  try {
    let row = rows.answers.get(name(job));
    if (!row || row.error) {
      rows.answers.delete(name(job));
      const answer = await callTraced("v1/chat/completions", { body, signal });
      const [choice] = answer.choices;
      row = { ...about, text: choice.message.content ?? "", finish_reason: choice.finish_reason ?? "", cost: costOf(answer, (performance.now() - began) / 1000) };
      rows.answers.set(name(job), row);
    }
    rows.unjudged.set(name(job), "stopped before it was judged");
    const judgement = await judged(plan, item, row, signal);
    if (judgement) rows.judgements.set(name(job), { ...judgement, ...about });
    if (plan.judge === LIKELIHOOD) await weigh(plan, job, body, signal);
    rows.unjudged.delete(name(job));
  } catch (error) {
    if (error.name === "AbortError") return;
    // An answer that nobody could judge is an answer.
    if (rows.answers.has(name(job))) rows.unjudged.set(name(job), error.message);
    else rows.answers.set(name(job), { ...about, text: "", finish_reason: "", cost: {}, error: error.message });
  }
}

/** Once both columns have told how likely the reference is, which of them thinks it likelier. */
async function weigh(plan, job, body, signal) {
  const { item, at } = job;
  const value = await likelihoodOf(item, body, signal);
  if (value === null) return;
  rows.scores.set(name(job), value);
  const [baseline, candidate] = [0, 1].map((each) => rows.scores.get(name({ item, at: each })));
  if (baseline === undefined || candidate === undefined) return;
  const [a, b] = columnsOf(plan);
  const first = preferred(candidate, baseline);
  rows.comparisons.set(`${item.set}/${item.id}`, { judge: "likelihood of the reference", set: item.set, id: item.id, model: a.model, a: b.alignment, b: a.alignment, first, second: first });
}

function bodyOf({ model, alignment }, item, { max_tokens, temperature, seed }) {
  const given = { max_tokens, temperature, seed };
  const wish = { trace: true };
  if (typeof alignment === "string") wish.name = alignment;
  else if (alignment) wish.pipeline = alignment;
  return { model, messages: item.messages, ...Object.fromEntries(Object.entries(given).filter(([, value]) => value !== null && value !== undefined)), alignment: wish };
}

function costOf({ usage, alignment }, seconds) {
  const stages = Object.values(alignment?.usage ?? usage?.alignment_details ?? {});
  return {
    calls: stages.reduce((sum, { calls }) => sum + (calls ?? 0), 0) || 1,
    prompt_tokens: usage?.prompt_tokens ?? 0,
    completion_tokens: usage?.completion_tokens ?? 0,
    answer_tokens: alignment?.answer?.completion_tokens ?? (stages.length > 1 ? null : (usage?.completion_tokens ?? null)),
    seconds: Math.round(seconds * 1000) / 1000,
  };
}

function snapshot(plan) {
  const [a, b] = columnsOf(plan);
  const { max_tokens: most, temperature, seed, concurrency } = plan.settings;
  const votes = run.get().evaluated?.comparisons.filter(({ judge }) => judge.startsWith("human")) ?? [];
  const fresh = run.get().plan === plan ? votes : [];
  const settings = { models: [a.model], alignments: { [a.model]: [a.alignment, b.alignment] }, baseline: a.alignment, sets: [plan.name || "page"], seed: seed ?? 0, max_tokens: most ?? 0, temperature: temperature ?? 0 };
  const order = [a, b].flatMap((column, at) => rows.items.map((item) => rows.answers.get(name({ item, at }))).filter(Boolean));
  return {
    ...evaluation({ name: plan.name || "Questions of your own", settings, items: rows.items, answers: order, judgements: [...rows.judgements.values()], comparisons: [...rows.comparisons.values(), ...fresh] }),
    columns: [a, b],
    concurrency,
  };
}
