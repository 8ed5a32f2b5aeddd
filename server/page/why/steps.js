// What was done, step by step, in the order in which it was done.
import { html } from "../core/html.js";
import { duration, plural } from "../core/format.js";
import { Boundary } from "../ui/boundary.js";
import { Button } from "../ui/controls.js";
import { Empty } from "../ui/view.js";
import { BestOfN } from "./best-of-n.js";
import { Facts, Items, Operators, Passed, Quote, Score, Verdicts } from "./parts.js";
import { Refine } from "./refine.js";

const TOGETHER = new Set(["refine", "best_of_n", "rain", "align3", "verify"]);
const NAMES = {
  gate: "Gate", norms: "Norms", demos: "Demonstrations", principles: "Principles", urial: "Examples (URIAL)", refine: "Refine",
  best_of_n: "Best of n", blockwise: "Best of n, by segment", rain: "Search (RAIN)", tpo: "Best of revisions (TPO)", align3: "Deliberation (Align3)",
  verify: "Verified", fallback: "Another model", redact: "Redaction",
};
const STAGES = { behavior: "By the rules of behavior", safety: "By the rules of safety", audit: "By all of them" };

/** Notes of a step that belong together as one card, each where its first stands. */
function grouped(notes) {
  const groups = [];
  for (const note of notes) {
    const floor = note.floor === true;
    const same = TOGETHER.has(note.step) && groups.find((group) => group.step === note.step && group.floor === floor);
    if (same) same.notes.push(note);
    else groups.push({ step: note.step, floor, notes: [note] });
  }
  return groups;
}

export function Steps({ notes, pipeline, live, onTree }) {
  const groups = grouped(notes);
  return html`
    ${pipeline && html`<p class="why-pipeline small soft">${pipeline.map((step, i) => html`<span key=${i} class="chip">${step}</span>`)}</p>`}
    ${!groups.length && html`<${Empty} title=${live ? "Nothing was noted yet" : "Nothing was done"}>
      <p>${live ? "" : "The model answered the conversation as it came, or what was done is not for this key to see."}</p><//>`}
    <ol class="why-steps">
      ${groups.map(({ step, floor, notes: own }, i) => html`
        <li key=${i} class="why-step">
          <header class="why-step-head">
            <h3>${NAMES[step] ?? step}</h3>${floor && html`<${Operators} />`}
            <${Outcome} step=${step} notes=${own} />
            <span class="push faint small nums" title="since the request came in">${duration(own[0].at_ms)}</span>
          </header>
          <${Boundary} what="This step"><${Body} step=${step} notes=${own} onTree=${onTree} /><//>
        </li>`)}
    </ol>`;
}

function Outcome({ step, notes: [note, ...rest] }) {
  const all = [note, ...rest];
  if (step === "gate" && note.passed !== undefined) return html`<${Passed} passed=${note.passed} no="flagged" />`;
  if (all.some((each) => each.withheld)) return html`<span class="chip bad">withheld</span>`;
  if (step === "verify") return html`<${Passed} passed=${all.every((each) => each.passed !== false)} />`;
  return null;
}

function Body({ step, notes, onTree }) {
  const [{ step: _, at_ms: __, floor: ___, choice: ____, ...note }] = notes;
  switch (step) {
    case "norms": {
      const { used, dropped, prompt, store, scopes, tokens } = note;
      return html`
        <${Items} used=${used} dropped=${dropped} what="norm" store=${store} draw=${({ text }) => text && html`<p class="why-text">${text}</p>`} />
        <${Facts} facts=${{ prompt, store, scopes: scopes ?? "all", tokens }} />`;
    }
    case "demos": {
      const { used, dropped, ...facts } = note;
      const draw = ({ text, answer }) => text && html`<p class="why-text">${text}</p>${answer && html`<p class="why-text soft">${answer}</p>`}`;
      return html`<${Items} used=${used} dropped=${dropped} what="demonstration" store=${facts.store} draw=${draw} /><${Facts} facts=${facts} />`;
    }
    case "principles": {
      const { reasoning, no_reasoning: none, ...facts } = note;
      return html`
        ${reasoning && html`<h4>The model's reasoning, which the client does not get</h4><${Quote}>${reasoning}<//>`}
        ${none && html`<p class="soft">No reasoning: ${none}</p>`}
        <${Facts} facts=${facts} />`;
    }
    case "align3":
      return html`<p class="soft">What the model said to itself, which the client does not get.</p>
        ${notes.map(({ stage, reasoning, no_reasoning: none, cut }, i) => stage && html`<div key=${i}><h4>${STAGES[stage] ?? stage}</h4>
          ${reasoning && html`<${Quote}>${reasoning}<//>`}
          ${cut && html`<p class="soft">Cut off at its limit.</p>`}
          ${none && html`<p class="soft">Nothing: ${none}</p>`}</div>`)}
        <${Facts} facts=${note} />`;
    case "gate": {
      const { passed, action, verdicts, score, ...facts } = note;
      return html`
        ${passed !== undefined && html`<p>${action === "refuse" ? "The question was refused: no model was asked." : action === "annotate" ? "It was noted, and nothing else happened." : action ? html`The alignment <strong>${action}</strong> answers.` : "The question went on as it was."}</p>`}
        <${Verdicts} verdicts=${verdicts} /><${Facts} facts=${facts} />`;
    }
    case "fallback":
      return html`<p><strong>${note.model}</strong> answered in place of <strong>${note.instead_of}</strong>.</p><${Facts} facts=${{ because: note.because }} />`;
    case "refine":
      return html`<${Refine} notes=${notes} />`;
    case "best_of_n":
      return html`<${BestOfN} notes=${notes} />`;
    case "rain":
      return notes.map((each, i) => html`<${Rain} key=${i} note=${each} onTree=${onTree} />`);
    case "verify":
      return html`<ul class="why-verdicts">${notes.map((each, i) => html`<li key=${i}><${Vetted} note=${each} /></li>`)}</ul>`;
    default:
      return html`<${Facts} facts=${note} />`;
  }
}

function Vetted({ note: { length, score, passed, verdicts, withheld, released } }) {
  if (withheld) return html`<p>The answer ended there: what failed did not go out.</p>`;
  if (released) return html`<p>It went out all the same, as the operator has set it.</p>`;
  return html`<div class="row"><span>The answer's first ${plural(length, "character")}</span><${Passed} passed=${passed} /><${Score} value=${score} /></div>
    <${Verdicts} verdicts=${verdicts} />`;
}

function Rain({ note, onTree }) {
  const { step, at_ms: at, choice, floor, commits, open, search, commit, gate, outcome, seconds, ...facts } = note;
  if (search || commit) return null; // told in the tree
  if (outcome === undefined) return html`<h4>What it took</h4><${Facts} facts=${facts} />`;
  const { searches, rewinds, ...rest } = facts;
  return html`
    <p>Choice ${choice + 1}: ${outcome}. ${plural(searches, "search", "searches")}, ${plural(rewinds, "rewind")}, ${plural(commits?.length ?? 0, "commit")} in ${duration(seconds * 1000)}.</p>
    ${gate && html`<p>The judge gave the plain draft of ${plural(gate.draft_tokens, "token")} the value ${gate.value}.</p>`}
    ${onTree && commits?.length > 0 && html`<div class="row"><${Button} small icon="right" onClick=${onTree}>The search tree<//></div>`}
    <${Facts} facts=${rest} />`;
}
