// Sending and streaming. Nothing here draws: an answer is a store, changed at most once a frame.
import { stream } from "../../core/api.js";
import { perFrame } from "../../core/frames.js";
import { key } from "../../core/key.js";
import { store } from "../../core/store.js";
import { announce } from "../../ui/toast.js";
import { body, messagesOf } from "./request.js";
import { draft, fresh, letter, setup, turns, unnamed } from "./state.js";

const NEW = {
  state: "waiting", text: "", reasoning: "", calls: [], error: null, seed: null, firstMs: null, totalMs: null, usage: null,
  trace: null, notes: [], finish: null, asked: null,
};
const running = new Map(); // the AbortController of each answer's store
let traces = true; // whether the server shows them to this key
key.watch(() => {
  traces = true;
});
/** How many answers are being written. */
export const busy = store(0);

export const drawn = () => Math.floor(Math.random() * 2 ** 31);

/** Sends the draft, or another text in place of a turn: what came after that is gone. */
export function send({ text, images = [], at = turns.get().length }) {
  const { columns, settings } = setup.get();
  const before = turns.get().slice(0, at);
  for (const gone of turns.get().slice(at)) stopTurn(gone);
  const turn = { id: fresh(), text, images, answers: {}, order: shuffled(columns.map(({ id }) => id)), columns, vote: null };
  const seed = settings.seed ?? drawn();
  for (const { id } of columns) turn.answers[id] = store({ ...NEW, seed });
  turns.set([...before, turn]);
  if (at === before.length && text === draft.get().text) draft.set({ text: "", images: [] });
  for (const column of columns) write(turn, column, seed);
}

/** Writes one answer once more, with the same seed or another: by the column as it is now. */
export function retry(turn, column, seed) {
  running.get(turn.answers[column.id])?.abort();
  const answer = turn.answers[column.id] ?? store(NEW);
  turn.answers[column.id] = answer;
  answer.set({ ...NEW, seed });
  turns.set((all) => all.map((each) => (each === turn ? { ...turn, vote: null } : each)));
  write(turn, column, seed);
}

export const stop = (answer) => running.get(answer)?.abort();
export const stopTurn = (turn) => Object.values(turn.answers).forEach(stop);
export const stopAll = () => [...running.values()].forEach((each) => each.abort());

/** `order` is by chance: how columns without names stand. */
function shuffled(ids) {
  const order = [...ids];
  for (let i = order.length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}

async function write(turn, column, seed) {
  const answer = turn.answers[column.id];
  const all = turns.get();
  const at = all.findIndex(({ id }) => id === turn.id);
  const asked = body(column, messagesOf(all.slice(0, at + 1), column.id, setup.get().settings), setup.get().settings, seed);
  const control = new AbortController();
  running.set(answer, control);
  busy.set(running.size);
  const began = performance.now();
  const made = { ...answer.get(), state: "waiting", notes: [], asked };
  answer.set({ ...made });
  // Only of this writing: a later one of the same answer has begun where the signal is another's.
  const show = perFrame(() => running.get(answer) === control && answer.set({ ...made }));
  try {
    for await (const event of events(made, control.signal)) {
      take(made, event, began);
      show();
    }
    made.state = "done";
  } catch (error) {
    if (error.name === "AbortError") made.state = "stopped";
    else Object.assign(made, { state: "failed", error });
  }
  made.totalMs = performance.now() - began;
  if (running.get(answer) !== control) return;
  running.delete(answer);
  busy.set(running.size);
  answer.set({ ...made });
  told(made, turn, column);
}

/** The stream of an answer. Where the server shows this key no trace, the answer without one. */
async function* events(made, signal) {
  if (!traces) made.asked = untraced(made.asked);
  const ask = () => stream("v1/chat/completions", { body: streamed(made.asked), signal });
  try {
    yield* ask();
  } catch (error) {
    if (error.code !== "trace_not_allowed") throw error;
    traces = false;
    made.asked = untraced(made.asked);
    yield* ask();
  }
}

/** Of the trace all that there is, and that as it is made. */
function streamed({ alignment, ...rest }) {
  const trace = alignment.trace && { prompt: true, live: true, nodes: 10_000 };
  return { ...rest, alignment: { ...alignment, trace }, stream: true, stream_options: { include_usage: true } };
}

const untraced = (asked) => ({ ...asked, alignment: { ...asked.alignment, trace: false } });

function take(made, event, began) {
  if (event.event === "heedful") made.notes.push(event);
  if (event.usage) made.usage = event.usage;
  if (event.alignment) made.trace = event.alignment;
  const choice = event.choices?.[0];
  if (!choice) return;
  if (choice.finish_reason) made.finish = choice.finish_reason;
  const { content, reasoning, reasoning_content, refusal, tool_calls } = choice.delta ?? {};
  const thought = reasoning ?? reasoning_content;
  if (content || refusal || thought || tool_calls) {
    made.firstMs ??= performance.now() - began;
    made.state = "streaming";
  }
  made.text += content ?? refusal ?? "";
  made.reasoning += thought ?? "";
  for (const part of tool_calls ?? []) {
    const call = (made.calls[part.index ?? 0] ??= { id: "", type: "function", function: { name: "", arguments: "" } });
    call.id ||= part.id ?? "";
    call.function.name += part.function?.name ?? "";
    call.function.arguments += part.function?.arguments ?? "";
  }
}

function told({ state, totalMs, usage }, turn, column) {
  const { columns } = setup.get();
  const how = { done: "complete", stopped: "stopped", failed: "failed" }[state];
  // Who only listens is to know no more of whose answer it is than who looks.
  if (unnamed(turns.get().find(({ id }) => id === turn.id), columns)) return announce(`An answer is ${how}`);
  const index = columns.findIndex(({ id }) => id === column.id);
  const name = index < 0 ? "" : ` ${letter(index)}`;
  const tokens = usage ? `, ${usage.completion_tokens} tokens` : "";
  return announce(`Answer${name} ${how}: ${(totalMs / 1000).toFixed(1)} seconds${tokens}`);
}

/** Empties the conversation. */
export function clear() {
  stopAll();
  turns.set([]);
}
