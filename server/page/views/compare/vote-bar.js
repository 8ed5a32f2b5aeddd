// The question which answer is better, while nobody knows whose is whose.
import { html } from "../../core/html.js";
import { useStore } from "../../core/store.js";
import { Button } from "../../ui/controls.js";
import { named, letter, setup, turns } from "./state.js";
import { vote } from "./votes.js";

/** Whether all answers are complete. Their number is that of a turn, and does not change. */
function useOver(answers) {
  const states = answers.map((answer) => useStore(answer, ({ state }) => state));
  return states.every((state) => state === "done");
}

export function VoteBar({ turn, shown }) {
  const over = useOver(shown.map(({ column }) => turn.answers[column.id]));
  const choose = (better) => {
    const made = vote(turn, shown, better);
    const { columns } = setup.get();
    const name = ({ column }) => `${letter(columns.findIndex(({ id }) => id === column.id))} (${named(column.alignment)})`;
    const said = better === null ? `You found them alike: ${shown.map(name).join(", ")}.` : `You voted for ${name(shown[better])}. ${shown.map((each, i) => `Answer ${i + 1} was ${name(each)}`).join(", ")}.`;
    const column = better === null ? null : shown[better].column.id;
    turns.set((all) => all.map((each) => (each.id === turn.id ? { ...each, vote: { id: made.id, said, column } } : each)));
  };
  return html`
    <div class="compare-vote" role="group" aria-label="Your vote">
      <span class="soft">${over ? "Which answer is better?" : "You can vote when all answers are complete."}</span>
      ${shown.map(({ name }, i) => html`<${Button} key=${name} disabled=${!over} onClick=${() => choose(i)}>${name} is better<//>`)}
      <${Button} disabled=${!over} onClick=${() => choose(null)}>They are alike<//>
    </div>`;
}
