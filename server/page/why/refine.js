// A draft and its corrections: what was found wrong, and what became other.
import { html } from "../core/html.js";
import { plural } from "../core/format.js";
import { Diff } from "../ui/diff.js";
import { Facts, Passed, Quote, Score, Verdicts } from "./parts.js";

export function Refine({ notes }) {
  const choices = [...new Set(notes.map((note) => note.choice ?? 0))];
  return choices.map((choice) => html`
    <${Choice} key=${choice} notes=${notes.filter((note) => (note.choice ?? 0) === choice)} name=${choices.length > 1 ? `Choice ${choice + 1}` : null} />`);
}

function Choice({ notes, name }) {
  const rounds = notes.filter((note) => note.round !== undefined && note.verdicts);
  const rest = notes.filter((note) => !rounds.includes(note));
  const passages = [...new Set(rounds.map((note) => note.at))];
  // By sentence: those that passed at once are no news.
  const told = passages.filter((at) => at === undefined || rounds.some((note) => note.at === at && !note.passed));
  const quiet = passages.length - told.length;
  return html`
    ${name && html`<h4>${name}</h4>`}
    ${told.map((at) => html`<${Passage} key=${at} at=${at} rounds=${rounds.filter((note) => note.at === at)} />`)}
    ${quiet > 0 && html`<p class="soft">${plural(quiet, "passage")} passed at once.</p>`}
    ${rest.map((note, i) => html`<${Other} key=${i} note=${note} />`)}`;
}

function Passage({ at, rounds }) {
  let kept = null; // what the next one is compared with: a correction that was rejected changes nothing
  return html`
    ${at !== undefined && html`<h4>From character ${at}</h4>`}
    <ol class="why-rounds">
      ${rounds.map((note, i) => {
        const before = kept;
        if (i === 0 || note.accepted !== false) kept = note;
        return html`<li key=${i}><${Round} note=${note} before=${before} first=${i === 0} /></li>`;
      })}
    </ol>`;
}

function Round({ note, before, first }) {
  const { round, passed, accepted, score, verdicts, malformed, text } = note;
  return html`
    <div class="row">
      <strong>${first ? "Draft" : `Correction ${round}`}</strong><${Passed} passed=${passed} /><${Score} value=${score} name="lowest score" />
      ${accepted !== undefined && html`<span class=${accepted ? "chip accent" : "chip"}>${accepted ? "taken" : "not taken: no better"}</span>`}
    </div>
    ${text !== undefined && html`<${Quote}>${before?.text !== undefined ? html`<${Diff} from=${before.text} to=${text} />` : text}<//>`}
    ${malformed && html`<p class="why-critique">${malformed}</p>`}
    <${Verdicts} verdicts=${verdicts} />`;
}

function Other({ note: { step, at_ms: at, choice, floor, round, accepted, stopped, withheld, left_out: left, passed_through: through, ...facts } }) {
  return html`
    ${stopped && html`<p class="soft">It ended there: ${stopped}.</p>`}
    ${withheld && html`<p>Nothing passed: the answer was withheld.</p>`}
    ${left && html`<p class="soft">Left out: ${left}.</p>`}
    ${through && html`<p class="soft">It went through unjudged: ${through}.</p>`}
    <${Facts} facts=${facts} />`;
}
