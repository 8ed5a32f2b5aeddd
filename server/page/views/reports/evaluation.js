// An evaluation as its raw records have it: items, answers, and what judges made of them. Nothing here draws.
import { isPlain } from "../../core/plain.js";
import { answerOf, itemOf, markOf, text } from "./rows.js";

/** What a measurement writes, by its name; everything else in a folder is passed over. */
export const FILES = ["eval.run.json", "items.jsonl", "answers.jsonl", "scores.jsonl", "judgements.jsonl", "comparisons.jsonl", "latency.jsonl"];

const itemKey = ({ set, id }) => `${set}/${id}`;
export const columnKey = ({ model, alignment }) => `${model}@${alignment}`;
export const named = (column, columns) => (columns.every(({ model }) => model === column.model) ? column.alignment : `${column.model} · ${column.alignment}`);

/** Lines of JSON as objects. What is none of it is counted, with the number of the first such line. */
function lines(text = "") {
  const rows = [];
  let bad = null;
  text.split("\n").forEach((line, i) => {
    if (!line.trim()) return;
    try {
      const value = JSON.parse(line);
      if (isPlain(value)) return rows.push(value);
    } catch {
      // told below
    }
    bad = { first: bad?.first ?? i + 1, count: (bad?.count ?? 0) + 1 };
  });
  return { rows, bad };
}

/** `files`: name → text. Raises an Error that says what is missing. */
export function read(name, files) {
  const problems = [];
  const rows = Object.fromEntries(["items", "answers", "scores", "judgements", "comparisons", "latency"].map((kind) => {
    const { rows: found, bad } = lines(files[`${kind}.jsonl`]);
    if (bad) problems.push(`${kind}.jsonl: ${bad.count} lines are no JSON objects, the first is line ${bad.first}`);
    return [kind, found];
  }));
  let settings = null;
  try {
    settings = files["eval.run.json"] ? JSON.parse(files["eval.run.json"]).settings : null;
  } catch {
    problems.push("eval.run.json can't be read");
  }
  if (!["answers", "scores", "judgements", "comparisons", "latency"].some((kind) => rows[kind].length)) {
    throw new Error(`There are no records in it: at least one of ${FILES.slice(2).join(", ")} is needed.`);
  }
  const { items, answers, scores, judgements, comparisons, latency } = rows;
  return evaluation({
    name, settings, problems, latency, items: items.map(itemOf), answers: answers.map(answerOf), scores: scores.map(markOf),
    judgements: judgements.map(markOf), comparisons: comparisons.map(markOf),
  });
}

export function evaluation({ name, settings = null, problems = [], items = [], answers = [], scores = [], judgements = [], comparisons = [], latency = [] }) {
  const columns = new Map();
  for (const row of [...answers, ...scores]) columns.set(columnKey(row), { model: String(row.model), alignment: String(row.alignment) });
  for (const { model, a, b } of comparisons) for (const alignment of [a, b]) columns.set(columnKey({ model, alignment }), { model, alignment });
  const asked = new Map(items.map((item) => [itemKey(item), item]));
  // Without items.jsonl there are answers and no questions.
  for (const row of [...answers, ...scores]) if (!asked.has(itemKey(row))) asked.set(itemKey(row), { set: row.set, id: row.id, measure: "", messages: [] });
  const given = new Map();
  for (const row of answers) put(given, columnKey(row), itemKey(row), row);
  const order = [...columns.values()];
  const baseline = order.findIndex(({ alignment }) => alignment === settings?.baseline);
  if (baseline > 0) order.unshift(...order.splice(baseline, 1));
  return { name, settings, problems, items: asked, columns: order, answers: given, judgements, comparisons, latency, scores, judges: judgesOf({ judgements, comparisons, scores, items: asked }) };
}

function put(map, outer, inner, value) {
  if (!map.has(outer)) map.set(outer, new Map());
  map.get(outer).set(inner, value);
}

/**
 * Who has judged: `{id, title, values}` with a value by column and item, or `{id, title, pairs}` with preferences
 * between two columns of an item.
 */
function judgesOf({ judgements, comparisons, scores, items }) {
  const found = new Map();
  const judge = (id, title, more) => {
    if (!found.has(id)) found.set(id, { id, title, ...more() });
    return found.get(id);
  };
  for (const row of judgements) {
    const { values } = judge(`${row.measure} by ${row.judge}`, `${good(row.measure)}, by ${row.judge}`, () => ({ values: new Map(), facts: new Map() }));
    if (typeof row.value === "number") put(values, columnKey(row), itemKey(row), row.value);
  }
  for (const row of scores) {
    const item = items.get(itemKey(row));
    const value = likelihood(item, row);
    if (value !== null) put(judge(item.measure, `${good(item.measure)}, by likelihood`, () => ({ values: new Map() })).values, columnKey(row), itemKey(row), value);
  }
  for (const row of comparisons) {
    const value = preference(row);
    const { pairs } = judge(`preferred by ${row.judge}`, `preferred by ${row.judge}`, () => ({ pairs: new Map() }));
    if (value !== null) put(pairs, `${row.model}@${row.a}|${row.model}@${row.b}`, itemKey(row), value);
  }
  return [...found.values()];
}

const GOOD = { harmlessness: "harmless", "over-refusal": "safe prompt answered", capability: "right", living: "right", stale: "not stale", truthfulness: "truthful", norms: "norm right", preference: "preference shared" };
/** What a value of 1 means, of a measure. */
const good = (measure) => GOOD[measure] ?? measure;

/** For `a`, 0 to 1: over the orders in which it was judged. */
function preference({ first, second, once }) {
  const given = [first, second].filter((value) => typeof value === "number");
  return given.length === (once ? 1 : 2) ? given.reduce((sum, value) => sum + value, 0) / given.length : null;
}

/** 1 where what is right is the likelier: of truthfulness the best answer beats every false one. */
function likelihood(item, { logprobs = [], tokens = [], error }) {
  const right = item?.right;
  if (error || !right?.length || logprobs.length < 2) return null;
  if (item.measure === "truthfulness") return Number(logprobs[right[0]] > Math.max(...logprobs.filter((_, i) => !right.includes(i))));
  const values = item.measure === "preference" ? logprobs.map((value, i) => value / tokens[i]) : logprobs;
  return Number(right.includes(values.indexOf(Math.max(...values))));
}

/** How much better `b` is than `a` on an item: above 0 better, 0 alike, null where nobody judged. */
export function difference(judge, a, b, item) {
  if (!judge) return null;
  const [one, other] = [columnKey(a), columnKey(b)];
  if (judge.values) {
    const before = judge.values.get(one)?.get(item);
    const after = judge.values.get(other)?.get(item);
    return before === undefined || after === undefined ? null : after - before;
  }
  const forward = judge.pairs.get(`${other}|${one}`)?.get(item);
  const backward = judge.pairs.get(`${one}|${other}`)?.get(item);
  return forward !== undefined ? 2 * forward - 1 : backward !== undefined ? 1 - 2 * backward : null;
}

const ALIKE = 1e-9;
/** "better", "worse", "alike", or "open" where nobody judged. */
export const change = (value) => (value === null ? "open" : value > ALIKE ? "better" : value < -ALIKE ? "worse" : "alike");

/** The items that fit, each with what changed from `a` to `b`. */
export function compared(evaluated, { a, b, judge, set = "", verdict = "", find = "" }) {
  const wanted = find.trim().toLowerCase();
  const all = [];
  for (const [key, item] of evaluated.items) {
    if (set && item.set !== set) continue;
    const value = difference(judge, a, b, key);
    const answers = [a, b].map((column) => evaluated.answers.get(columnKey(column))?.get(key));
    if (!answers[0] && !answers[1] && value === null) continue;
    if (wanted && ![questionOf(item), ...answers.map((answer) => answer?.text ?? "")].some((each) => each.toLowerCase().includes(wanted))) continue;
    all.push({ key, item, value, change: change(value), answers });
  }
  const counts = { better: 0, worse: 0, alike: 0, open: 0 };
  for (const each of all) counts[each.change]++;
  return { counts, total: all.length, shown: verdict ? all.filter((each) => each.change === verdict) : all };
}

/** The text of the last user turn. */
export function questionOf({ messages = [] }) {
  const last = messages.findLast?.(({ role }) => role === "user");
  const content = last?.content ?? "";
  return Array.isArray(content) ? content.map((part) => text(part?.text)).join("\n") : text(content);
}

/** A vote of a person on an item: the preference for `a`. */
export function withVote(evaluated, { judge, item, a, b, first }) {
  const row = { judge, set: item.set, id: item.id, model: a.model, a: a.alignment, b: b.alignment, first, second: null, once: true };
  const others = evaluated.comparisons.filter((each) => !(each.judge === judge && itemKey(each) === itemKey(item) && each.model === a.model && [each.a, each.b].sort().join("|") === [a.alignment, b.alignment].sort().join("|")));
  const made = evaluation({ ...evaluated, items: [...evaluated.items.values()], answers: flat(evaluated.answers), comparisons: [...others, row] });
  return { ...made, columns: evaluated.columns, concurrency: evaluated.concurrency };
}

const flat = (answers) => [...answers.values()].flatMap((rows) => [...rows.values()]);

/** The files of an evaluation's folder, as `heedful eval table` and `heedful report` read it. Name → text. */
export function files(evaluated) {
  const jsonl = (rows) => rows.map((row) => `${JSON.stringify(row)}\n`).join("");
  const models = [...new Set(evaluated.columns.map(({ model }) => model))];
  const alignments = Object.fromEntries(models.map((model) => [model, evaluated.columns.filter((each) => each.model === model).map(({ alignment }) => alignment)]));
  const sets = [...new Set([...evaluated.items.values()].map(({ set }) => set))];
  const settings = { models, alignments, baseline: evaluated.columns[0]?.alignment ?? "direct", sets, ...evaluated.settings };
  const about = { settings, url: location.origin, concurrency: evaluated.concurrency ?? 1, version: "page", machine: {} };
  return {
    "eval.run.json": `${JSON.stringify(about, null, 2)}\n`,
    "items.jsonl": jsonl([...evaluated.items.values()]),
    "answers.jsonl": jsonl(flat(evaluated.answers)),
    "scores.jsonl": jsonl(evaluated.scores),
    "judgements.jsonl": jsonl(evaluated.judgements),
    "comparisons.jsonl": jsonl(evaluated.comparisons),
  };
}
