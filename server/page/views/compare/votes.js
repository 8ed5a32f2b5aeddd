// Votes of blind comparisons: kept in this browser, and written as an evaluation's folder.
import { all, empty, put, remove } from "../../core/database.js";
import { kept, local, store } from "../../core/store.js";
import { setup, written } from "./state.js";

/** All votes, the oldest first; null until they are read. */
export const votes = store(null);
/** The name that stands behind "human" in what is exported; or nothing. */
export const voter = kept("voter", "", local);
/** What went wrong with keeping them. */
export const trouble = store(null);

const told = (error) => trouble.set(`Votes can't be kept in this browser: ${error?.message ?? error}`);

export function readVotes() {
  all("votes").then((rows) => votes.set(rows.sort((a, b) => a.at - b.at)), (error) => { votes.set([]); told(error); });
}

/**
 * Keeps a vote on a turn's first answers. `shown`: their columns in the order in which they stood, without names;
 * `better`: the place of the better one, or null where they are alike.
 */
export function vote(turn, shown, better) {
  const { settings } = setup.get();
  const messages = [...(settings.system.trim() ? [{ role: "system", content: settings.system }] : []), { role: "user", content: turn.text }];
  const made = {
    id: `${turn.id}-${Date.now().toString(36)}`,
    at: Date.now(),
    voter: voter.get().trim(),
    messages,
    max_tokens: settings.max_tokens,
    temperature: settings.temperature,
    better,
    answers: shown.map(({ column }) => {
      const { asked, text, finish, usage, trace, totalMs } = turn.answers[column.id].get();
      const stages = Object.values(usage?.alignment_details ?? {});
      return {
        model: asked.model,
        alignment: written(asked.alignment.pipeline ?? asked.alignment.name ?? null),
        text,
        finish_reason: finish ?? "",
        cost: {
          calls: stages.reduce((sum, stage) => sum + stage.calls, 0) || 1,
          prompt_tokens: usage?.prompt_tokens ?? 0,
          completion_tokens: usage?.completion_tokens ?? 0,
          answer_tokens: trace?.answer?.completion_tokens ?? (stages.length > 1 ? null : (usage?.completion_tokens ?? null)),
          seconds: totalMs / 1000,
        },
      };
    }),
  };
  votes.set((before) => [...(before ?? []), made]);
  put("votes", made).catch(told);
  return made;
}

export function takeBack(made) {
  votes.set((before) => before.filter(({ id }) => id !== made.id));
  remove("votes", made.id).catch(told);
}

export function forgetAll() {
  votes.set([]);
  empty("votes").catch(told);
}

/** Under one model its alignments; of several models each `MODEL@ALIGNMENT` under the name "several models". */
function names(answers) {
  const models = new Set(answers.map(({ model }) => model));
  if (models.size === 1) return { model: [...models][0], of: ({ alignment }) => alignment };
  return { model: "several models", of: ({ model, alignment }) => `${model}@${alignment}` };
}

/**
 * The files of an evaluation, as `heedful eval table` and `heedful report` read a folder: one folder for each group of
 * alignments that votes link, since a rating is among those that were compared. Name → text.
 */
export function folders(given) {
  const groups = [];
  for (const each of given) {
    const { model, of } = names(each.answers);
    const here = new Set(each.answers.map(of));
    const linked = groups.filter((group) => group.model === model && [...here].some((name) => group.names.has(name)));
    const joined = { model, names: here, votes: [each] };
    for (const group of linked) {
      for (const name of group.names) joined.names.add(name);
      joined.votes = [...group.votes, ...joined.votes];
      groups.splice(groups.indexOf(group), 1);
    }
    groups.push(joined);
  }
  return Object.assign({}, ...groups.map((group, i) => folder(group, `votes-${i + 1}`)));
}

function folder({ model, names: known, votes: given }, path) {
  const lines = { items: [], answers: [], comparisons: [] };
  for (const { id, messages, answers, better, voter: who } of given) {
    const { of } = names(answers);
    const about = { set: "page", id, model };
    lines.items.push({ set: "page", id, measure: "helpfulness", messages });
    const seen = new Set();
    for (const answer of answers) {
      if (seen.has(of(answer))) continue; // the same alignment twice is no comparison
      seen.add(of(answer));
      lines.answers.push({ ...about, alignment: of(answer), text: answer.text, finish_reason: answer.finish_reason, cost: answer.cost });
    }
    // Against the better one each of the others; where all are alike, each against the first.
    const one = better ?? 0;
    answers.forEach((other, i) => {
      if (i === one || of(other) === of(answers[one])) return;
      const [a, b] = one < i ? [answers[one], other] : [other, answers[one]];
      // `a` stood first: its preference in that order, and in that alone.
      const first = better === null ? 0.5 : one < i ? 1 : 0;
      lines.comparisons.push({ judge: who ? `human: ${who}` : "human", ...about, a: of(a), b: of(b), first, second: null, once: true });
    });
  }
  const used = known.has("direct") ? "direct" : [...known].sort()[0];
  const jsonl = (rows) => rows.map((row) => `${JSON.stringify(row)}\n`).join("");
  const [{ max_tokens: most, temperature }] = given;
  const settings = { models: [model], alignments: { [model]: [used, ...[...known].filter((name) => name !== used).sort()] }, baseline: used, sets: ["page"], max_tokens: most ?? 0, temperature: temperature ?? 0 };
  const about = { settings, url: location.origin, concurrency: given[0].answers.length, version: "page", machine: {} };
  return {
    [`${path}/eval.run.json`]: `${JSON.stringify(about, null, 2)}\n`,
    [`${path}/items.jsonl`]: jsonl(lines.items),
    [`${path}/answers.jsonl`]: jsonl(lines.answers),
    [`${path}/comparisons.jsonl`]: jsonl(lines.comparisons),
  };
}
