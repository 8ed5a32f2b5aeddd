// What a link brings: it is shown whole, and nothing is asked before somebody says so.
import { html } from "../../core/html.js";
import { plural } from "../../core/format.js";
import { Button } from "../../ui/controls.js";
import { send } from "./run.js";
import { draft, turns } from "./state.js";

/** While there is a conversation, which a link's would take the place of. */
export const Offered = ({ onTake, onLeave }) => html`
  <div class="card card-body stack" role="alert">
    <h2>This link would replace the conversation</h2>
    <p>It brings columns and settings of its own; what was asked and answered here would be gone.</p>
    <div class="row"><${Button} kind="primary" onClick=${onTake}>Replace it<//><${Button} kind="quiet" onClick=${onLeave}>Keep mine<//></div>
  </div>`;

/** The set-up of a link that was taken, with what goes along unseen: the system message, tools, images. */
export function Brought({ settings: { system, tools }, questions, onDone }) {
  const [first, ...rest] = questions;
  const many = first && (questions.length === 1 ? "a question" : `${questions.length} questions`);
  return html`
    <div class="card card-body stack">
      <h2>${many ? `This link brings ${many}` : "The set-up is a link's"}</h2>
      ${system.trim() && html`<div><p class="soft small">A system message goes with ${many ? "each" : "every question"}:</p><p class="compare-quote">${system}</p></div>`}
      ${tools && html`<p class="soft small">${plural(tools.length, "tool")} may be called: ${tools.map((tool) => tool.function.name).join(", ")}</p>`}
      ${first && html`<ol class="stack">${questions.map(({ text, images }, i) => html`<li key=${i} class="compare-quote">${text}
        ${images.map((url, j) => html`<img key=${j} src=${url} alt=${`Image ${j + 1}`} />`)}</li>`)}</ol>`}
      <div class="row">
        ${first && html`<${Button} kind="primary" icon="send" onClick=${() => { onDone(); send(first); queue(rest); }}>Ask ${questions.length === 1 ? "it" : "them"} now<//>
          <${Button} kind="quiet" onClick=${() => { onDone(); draft.set(first); }}>Only take the set-up<//>`}
        ${!first && html`<${Button} onClick=${onDone}>Go on with it<//>`}
      </div>
    </div>`;
}

/** Further questions, each when the turn before it is over. */
function queue([next, ...rest]) {
  if (!next) return;
  const turn = turns.get().at(-1);
  const answers = Object.values(turn.answers);
  const open = () => answers.filter((answer) => ["waiting", "streaming"].includes(answer.get().state)).length;
  const ends = answers.map((answer) => answer.watch(() => {
    if (open()) return;
    ends.forEach((end) => end());
    if (turns.get().at(-1) === turn && answers.every((each) => each.get().state === "done")) {
      send(next);
      queue(rest);
    }
  }));
}
