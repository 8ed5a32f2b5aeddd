// What an answer took, stage by stage.
import { count } from "../core/format.js";
import { html } from "../core/html.js";
import { Empty } from "../ui/view.js";
import { Operators } from "./parts.js";

const FLOOR = "floor:";

export function Cost({ trace, usage }) {
  const stages = Object.entries(trace.usage ?? {});
  if (!stages.length) return html`<${Empty} title="No model was asked"><p>The answer cost nothing.</p><//>`;
  const own = trace.answer;
  const total = sums(usage ? { ...usage, calls: sum(stages, "calls") } : all(stages));
  const hidden = own && sums({
    prompt_tokens: total.prompt - own.prompt_tokens,
    completion_tokens: total.completion - own.completion_tokens,
    calls: Math.max(0, total.calls - 1),
  });
  return html`
    <div class="scroll-x" tabindex="0" role="region" aria-label="Cost by stage">
      <table class="table why-cost">
        <thead><tr><th scope="col">Stage</th><th scope="col" class="num">Calls</th><th scope="col" class="num">Read</th><th scope="col" class="num">Written</th></tr></thead>
        <tbody>
          ${stages.map(([name, stage]) => html`
            <tr key=${name}><th scope="row">${name.startsWith(FLOOR) ? html`${name.slice(FLOOR.length)} <${Operators} />` : name}</th>
              <${Numbers} ...${sums(stage)} /></tr>`)}
        </tbody>
        <tfoot>
          <tr><th scope="row">All</th><${Numbers} ...${total} /></tr>
          ${hidden && html`<tr class="soft"><th scope="row">of it hidden</th><${Numbers} ...${hidden} /></tr>`}
        </tfoot>
      </table>
    </div>
    <p class="small faint why-foot">Tokens read and written. Hidden is all that is no part of the answer: drafts, judgements, corrections, reasoning. It counts as the rest does.</p>`;
}

const Numbers = ({ calls, prompt, completion }) => html`
  <td class="num">${count(calls)}</td><td class="num">${count(prompt)}</td><td class="num">${count(completion)}</td>`;

const sums = ({ calls, prompt_tokens: prompt, completion_tokens: completion }) => ({ calls, prompt, completion });
const sum = (stages, name) => stages.reduce((total, [, stage]) => total + (stage[name] ?? 0), 0);
const all = (stages) => Object.fromEntries(["calls", "prompt_tokens", "completion_tokens"].map((n) => [n, sum(stages, n)]));
