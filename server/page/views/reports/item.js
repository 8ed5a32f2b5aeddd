// Two answers to the same item, side by side: what differs, what judges say, and one's own vote.
import { html, useEffect, useRef, useState } from "../../core/html.js";
import { count, duration } from "../../core/format.js";
import { may } from "../../core/server.js";
import { kept, local, useStore } from "../../core/store.js";
import { Button, CopyButton } from "../../ui/controls.js";
import { Diff } from "../../ui/diff.js";
import { Notice } from "../../ui/view.js";
import { announce } from "../../ui/toast.js";
import { voter } from "../compare/votes.js";
import { offerDemonstration } from "../norms/handover.js";
import { Change } from "./change.js";
import { columnKey, named, questionOf, withVote } from "./evaluation.js";

export const blind = kept("reports.blind", false, local);
const differing = kept("reports.differences", true, local);

/** By an item's key and nothing else: the same order each time, and nobody knows it. */
function turned(key) {
  let hash = 0;
  for (const sign of key) hash = (Math.imul(hash, 31) + sign.codePointAt(0)) | 0;
  return (hash ^ (hash >>> 7)) & 1;
}

export function Item({ evaluated, found, a, b, judge, onVoted, onClose, onBefore, onNext }) {
  const { item, answers, change, key } = found;
  const unnamed = useStore(blind);
  const differs = useStore(differing);
  const who = useStore(voter);
  const [voted, setVoted] = useState(null);
  const element = useRef(null);
  useEffect(() => setVoted(null), [unnamed]);
  useEffect(() => {
    // Below a list that is above it, and not beside it.
    if (matchMedia("(max-width: 63.99rem)").matches) element.current.scrollIntoView({ block: "start" });
  }, []);
  const hidden = unnamed && voted === null;
  const order = unnamed && turned(`${key} ${columnKey(a)} ${columnKey(b)}`) ? [1, 0] : [0, 1];
  const columns = [a, b];
  const name = who.trim() ? `human: ${who.trim()}` : "human";
  const can = onVoted && a.model === b.model && a !== b && answers.every((each) => each && !each.error);
  const vote = (place) => {
    const better = place === null ? null : order[place];
    const shown = order.map((at) => columns[at]);
    const first = place === null ? 0.5 : place === 0 ? 1 : 0;
    setVoted(better);
    if (place === null) setVoted(-1);
    onVoted(withVote(evaluated, { judge: name, item, a: shown[0], b: shown[1], first }));
    announce(place === null ? "Voted: alike" : `Voted for ${named(columns[better], evaluated.columns)}`);
  };
  const before = item.messages.slice(0, -1);
  return html`
    <article ref=${element} class="card reports-item" aria-label=${`Item ${key}`}>
      <header class="card-head">
        <h2>${key}</h2>${!hidden && html`<${Change} change=${change} />`}
        <div class="row push">
          <${Button} small kind="quiet" pressed=${String(differs)} onClick=${() => differing.set(!differs)}>Differences<//>
          <${Button} small kind="quiet" icon=${unnamed ? "hidden" : "eye"} pressed=${String(unnamed)} onClick=${() => blind.set(!unnamed)}>Blind<//>
          <${Button} small kind="quiet" icon="up" label="Item before" disabled=${!onBefore} onClick=${onBefore || undefined} />
          <${Button} small kind="quiet" icon="down" label="Next item" disabled=${!onNext} onClick=${onNext || undefined} />
          <${Button} small kind="quiet" icon="close" label="Close the item" onClick=${onClose} />
        </div>
      </header>
      <div class="card-body stack">
        ${before.length > 0 && html`<details class="small soft"><summary>${count(before.length)} turns before it</summary>
          ${before.map((message, i) => html`<p key=${i} class="reports-turn"><strong>${message.role}</strong> ${questionOf({ messages: [{ ...message, role: "user" }] })}</p>`)}</details>`}
        <p class="reports-asked">${questionOf(item) || html`<span class="faint">items.jsonl is not there: the question is not known.</span>`}</p>
        ${item.answer && html`<p class="small"><span class="faint">reference</span> ${item.answer}</p>`}
        <div class="reports-two">
          ${order.map((at, place) => html`<${Answer} key=${at} answer=${answers[at]} item=${item} title=${hidden ? `Answer ${place + 1}` : named(columns[at], evaluated.columns)}
            against=${differs && !hidden && at === 1 ? answers[0]?.text : null} column=${columns[at]} itemKey=${key} judges=${hidden ? [] : evaluated.judges} hidden=${hidden} />`)}
        </div>
        ${can && html`
          <div class="row reports-vote" role="group" aria-label="Your vote">
            <${Button} onClick=${() => vote(0)}>${hidden ? "1" : named(columns[order[0]], evaluated.columns)} is better<//>
            <${Button} onClick=${() => vote(null)}>They are alike<//>
            <${Button} onClick=${() => vote(1)}>${hidden ? "2" : named(columns[order[1]], evaluated.columns)} is better<//>
            ${voted !== null && voted !== -1 && may("author") && questionOf(item) && html`<${Button} kind="quiet" icon="book" onClick=${() => offerDemonstration({ question: questionOf(item), answer: answers[voted].text })}>Make it a demonstration<//>`}
            ${voted !== null && html`<span class="soft small">${voted === -1 ? "You find them alike." : `You voted for ${named(columns[voted], evaluated.columns)}.`}</span>`}
          </div>`}
        ${onVoted && a.model !== b.model && html`<p class="faint small">Votes are between alignments of one model.</p>`}
      </div>
    </article>`;
}

function Answer({ answer, item, title, against, column, itemKey, judges, hidden }) {
  const said = judges.filter(({ values }) => values).map(({ id, title: words, values }) => [id, words, values.get(columnKey(column))?.get(itemKey)]).filter(([, , value]) => value !== undefined);
  const cost = answer?.cost ?? {};
  return html`
    <section class="reports-answer" aria-label=${title}>
      <header><h3>${title}</h3>${answer?.text && html`<${CopyButton} kind="quiet" text=${answer.text} label=${`Copy the answer of ${title}`} />`}</header>
      ${!answer && html`<p class="faint">${item.candidates?.length ? "Read from likelihoods: nothing was written." : "No answer yet."}</p>`}
      ${answer?.error && html`<${Notice} kind="bad">${answer.error}<//>`}
      ${answer && !answer.error && html`<p class="reports-text">${answer.text
        ? (against !== null && against !== undefined ? html`<${Diff} from=${against} to=${answer.text} />` : answer.text)
        : html`<span class="faint">The model said nothing.</span>`}</p>`}
      ${!hidden && answer && !answer.error && html`<footer class="faint small nums">
        ${said.map(([id, words, value]) => html`<span key=${id}>${words}: <strong>${Number.isInteger(value) ? (value ? "yes" : "no") : value.toFixed(2)}</strong></span>`)}
        ${cost.completion_tokens !== undefined && html`<span>${count(cost.completion_tokens)} tokens</span>`}
        ${cost.seconds !== undefined && html`<span>${duration(cost.seconds * 1000)}</span>`}
        ${answer.finish_reason && answer.finish_reason !== "stop" && html`<span class="chip warn">${answer.finish_reason}</span>`}
      </footer>`}
    </section>`;
}
