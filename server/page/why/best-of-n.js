// Candidates, what each was worth, and which were chosen.
import { classes, html } from "../core/html.js";
import { plural } from "../core/format.js";
import { Icon } from "../ui/icons.js";
import { Passed, Quote, Score, Verdicts } from "./parts.js";

export function BestOfN({ notes }) {
  const summary = notes.find((note) => note.samples !== undefined);
  const aborted = notes.find((note) => note.aborted !== undefined)?.aborted;
  const thoughts = notes.filter((note) => note.left_out).length;
  const chosen = summary?.chosen ?? [];
  const candidates = notes.filter((note) => note.choice !== undefined && !note.left_out).sort((a, b) => worth(b) - worth(a) || a.choice - b.choice);
  const low = Math.min(-1, ...candidates.map((note) => note.mean_logprob ?? 0));
  return html`
    ${summary && html`<p>${plural(summary.samples, "candidate")}, ${summary.judged} judged${aborted ? `, ${aborted} broken off once enough had passed` : ""}.</p>`}
    <ol class="why-rounds">
      ${candidates.map((note) => html`
        <li key=${note.choice} class=${classes(chosen.includes(note.choice) && "chosen")}>
          <div class="row">
            <strong>Candidate ${note.choice + 1}</strong>
            ${chosen.includes(note.choice) && html`<span class="chip accent"><${Icon} name="check" size=${12} />chosen</span>`}
            ${note.passed !== undefined && html`<${Passed} passed=${note.passed} />`}
            <${Score} value=${note.score} />
            ${typeof note.mean_logprob === "number" && html`<${Score} value=${note.mean_logprob} low=${low} name="mean log-probability" />`}
          </div>
          ${note.text !== undefined && html`<${Quote}>${note.text}<//>`}
          ${note.passed_through && html`<p class="soft">It is the last to go out: ${note.passed_through}.</p>`}
          <${Verdicts} verdicts=${note.verdicts} />
        </li>`)}
    </ol>
    ${thoughts > 0 && html`<p class="soft">The thoughts of ${plural(thoughts, "candidate")} were not judged.</p>`}`;
}

const worth = ({ score, mean_logprob: mean }) => score ?? mean ?? -Infinity;
