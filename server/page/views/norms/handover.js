// Between this view and Compare: a good answer becomes a demonstration, and a mended norm is asked about again.
import { go } from "../../core/router.js";
import { retry } from "../compare/run.js";
import { setup, turns } from "../compare/state.js";
import { setDraft } from "./data.js";
import { asForm } from "./item.js";

/** The name under which a form that is no item's yet keeps its draft. */
export const NEW = "new";
/** Compare's turns: whether there is something to go back to. */
export const conversation = turns;

/** Opens the form of a demonstration, filled in with a question and its answer. */
export function offerDemonstration({ question, answer, source = "" }) {
  setDraft(NEW, asForm({ kind: "demo", text: question, answer, source }));
  go("norms", [], { add: "demo" });
}

/** Asks the last question of Compare again in each of its columns, each with the seed it had. */
export function askAgain() {
  const turn = turns.get().at(-1);
  go("compare");
  if (!turn) return;
  for (const column of setup.get().columns) {
    const answer = turn.answers[column.id]?.get();
    if (answer) retry(turns.get().at(-1), column, answer.seed);
  }
}
