// One answer: its text as it comes, what it took, and what can be done with it.
import { html, useState } from "../../core/html.js";
import { count, duration, money } from "../../core/format.js";
import { may, server } from "../../core/server.js";
import { useStore } from "../../core/store.js";
import { Button, CopyButton } from "../../ui/controls.js";
import { Diff } from "../../ui/diff.js";
import { Drawer } from "../../ui/dialog.js";
import { Failed } from "../../ui/view.js";
import { Why } from "../../why/panel.js";
import { offerDemonstration } from "../norms/handover.js";
import { CodeDialog } from "./code-dialog.js";
import { drawn, retry, stop } from "./run.js";
import { differing, named } from "./state.js";

/** `hidden`: neither name nor figures are shown. `against`: the store of the answer to mark differences from. */
export function Answer({ turn, column, name, answer, against, hidden }) {
  const now = useStore(answer);
  const [open, setOpen] = useState(null);
  const running = now.state === "waiting" || now.state === "streaming";
  return html`
    <article class="compare-answer" aria-label=${`Answer ${name}`} aria-busy=${running ? "true" : "false"}>
      <header class="compare-answer-head">
        <span class="compare-letter" aria-hidden="true">${name}</span>
        <h3 class="compare-name">${hidden ? `Answer ${name}` : `${now.asked?.model ?? column.model} · ${named(alignmentOf(now, column))}`}</h3>
        <${State} now=${now} />
      </header>
      <div class="compare-body">
        ${now.reasoning && html`<details class="compare-reasoning"><summary>Reasoning</summary><p>${now.reasoning}</p></details>`}
        <${Text} now=${now} against=${against} running=${running} />
        ${now.calls.map((call, i) => html`<pre key=${i} class="compare-call">${call.function.name}(${call.function.arguments})</pre>`)}
        ${now.error && html`<${Failed} error=${now.error} />`}
      </div>
      ${!hidden && html`<${Figures} now=${now} model=${now.asked?.model ?? column.model} />`}
      <footer class="compare-tools">
        ${running
          ? html`<${Button} small icon="stop" onClick=${() => stop(answer)}>Stop<//>
            ${!hidden && now.notes.length > 0 && html`<${Button} small kind="quiet" icon="why" onClick=${() => setOpen("why")}>Why<//>`}`
          : html`
            ${!hidden && html`<${Button} small kind="quiet" icon="why" disabled=${!now.trace && !now.notes.length} onClick=${() => setOpen("why")}>Why<//>`}
            <${Button} small kind="quiet" icon="retry" label=${`Retry ${name} with the same seed`} onClick=${() => retry(turn, column, now.seed)} />
            <${Button} small kind="quiet" icon="dice" label=${`Retry ${name} with another seed`} onClick=${() => retry(turn, column, drawn())} />
            <${CopyButton} kind="quiet" text=${now.text} label=${`Copy answer ${name}`} />
            ${!hidden && html`<${Button} small kind="quiet" icon="code" label=${`Request of ${name} as curl or Python`} onClick=${() => setOpen("code")} />
              ${now.state === "done" && now.text && may("author") && html`<${Button} small kind="quiet" icon="book" label=${`Make answer ${name} a demonstration`}
                onClick=${() => offerDemonstration({ question: turn.text, answer: now.text })} />`}`}`}
        ${!hidden && html`<span class="compare-seed push faint small nums" title="The seed that was sent">seed ${now.seed}</span>`}
      </footer>
      ${open === "why" && html`
        <${Drawer} title=${`Why: ${name}, ${named(alignmentOf(now, column))}`} onClose=${() => setOpen(null)}>
          <${Why} answer=${asked(now)} /><//>`}
      ${open === "code" && html`<${CodeDialog} request=${now.asked} onClose=${() => setOpen(null)} />`}
    </article>`;
}

/** As the other views know an answer. */
const asked = ({ asked: { model, messages, alignment }, text, usage, trace, notes, state }) => ({
  model, messages, text, usage, trace, notes, alignment: alignment.pipeline ?? alignment.name ?? null,
  live: state === "waiting" || state === "streaming",
});

/** What it was asked with, which the column may have left since. */
function alignmentOf({ asked: sent }, { alignment }) {
  return sent ? (sent.alignment.pipeline ?? sent.alignment.name ?? null) : alignment;
}

function Text({ now, against, running }) {
  const differs = useStore(differing);
  const first = useStore(against, (other) => (other?.state === "done" ? other.text : null));
  if (now.state === "waiting") return html`<p class="compare-waiting"><span class="spinner" aria-hidden="true" />Waiting for the first token</p>`;
  if (differs && !running && first !== null && now.text) return html`<p class="compare-text"><${Diff} from=${first} to=${now.text} /></p>`;
  if (!now.text && !now.calls.length && now.state === "done") return html`<p class="faint">The model said nothing.</p>`;
  return html`<p class="compare-text">${pieces(now.text).map((piece, i) => html`<span key=${i}>${piece}</span>`)}</p>`;
}

const PIECE = 400; // characters

/** A growing text in pieces that stay as they are but for the last: what has been laid out is not laid out again. */
function pieces(text) {
  const made = [];
  let from = 0;
  const ends = /\s/g;
  while (text.length - from > PIECE) {
    ends.lastIndex = from + PIECE;
    if (!ends.test(text)) break;
    made.push(text.slice(from, ends.lastIndex));
    from = ends.lastIndex;
  }
  return [...made, text.slice(from)];
}

function State({ now: { state, finish } }) {
  if (state === "stopped") return html`<span class="chip warn">stopped</span>`;
  if (state === "failed") return html`<span class="chip bad">failed</span>`;
  if (state !== "done" || finish === "stop" || !finish) return null;
  const words = { length: "cut at max tokens", content_filter: "withheld", tool_calls: "tool call" };
  return html`<span class=${`chip ${finish === "tool_calls" ? "" : "warn"}`}>${words[finish] ?? finish}</span>`;
}

/** What of an answer's cost nobody sees: everything but the answer itself. Null where the usage can't tell. */
export function hiddenOf({ usage, trace }) {
  if (!usage) return null;
  const stages = Object.values(usage.alignment_details ?? trace?.usage ?? {});
  const calls = Math.max(0, stages.reduce((sum, stage) => sum + stage.calls, 0) - 1);
  if (!calls) return { calls: 0, tokens: 0 };
  const own = trace?.answer;
  return { calls, tokens: own ? usage.completion_tokens - own.completion_tokens : null };
}

export function priceOf({ usage }, model) {
  if (!usage || !model?.prices) return null;
  const { prompt, completion, currency } = model.prices;
  return money((usage.prompt_tokens * prompt + usage.completion_tokens * completion) / 1e6, currency);
}

function Figures({ now, model }) {
  const known = useStore(server, ({ models }) => models.find(({ id }) => id === model));
  const hidden = hiddenOf(now);
  const price = priceOf(now, known);
  const own = now.usage && (now.trace?.answer?.completion_tokens ?? (hidden?.calls ? null : now.usage.completion_tokens));
  const rows = [
    ["first token", duration(now.firstMs)],
    ["whole", duration(now.totalMs)],
    ["tokens", own !== undefined && own !== null ? count(own) : now.usage ? count(now.usage.completion_tokens) : "–"],
    ["hidden", hidden?.calls ? `${hidden.tokens === null ? "" : `${count(hidden.tokens)} in `}${count(hidden.calls)} ${hidden.calls === 1 ? "call" : "calls"}` : hidden ? "none" : "–"],
    ...(price ? [["price", price]] : []),
  ];
  return html`<dl class="compare-figures">${rows.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}
