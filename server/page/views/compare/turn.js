// One turn: the question over all columns, and under it their answers.
import { html, useEffect, useRef, useState } from "../../core/html.js";
import { may } from "../../core/server.js";
import { store, useStore } from "../../core/store.js";
import { Button } from "../../ui/controls.js";
import { offerDemonstration } from "../norms/handover.js";
import { Answer } from "./answer.js";
import { drawn, retry, send } from "./run.js";
import { blind, letter, unnamed } from "./state.js";
import { VoteBar } from "./vote-bar.js";

const NOTHING = store(null);

export function Turn({ turn, index, columns }) {
  const element = useRef(null);
  useEffect(() => {
    // A question that has just been asked comes to the top; a view that is opened again stays where it is.
    if (index > 0 && Object.values(turn.answers).every((answer) => answer.get().state === "waiting")) {
      element.current.scrollIntoView({ block: "start" });
    }
  }, []);
  useStore(blind);
  const hidden = unnamed(turn, columns);
  // A column that was added since has no answer yet; one that was removed is not shown.
  const placed = columns.map((column, i) => ({ column, name: letter(i) }));
  const order = hidden ? turn.order.filter((id) => turn.answers[id]) : [];
  const shown = hidden
    ? order.map((id) => placed.find(({ column }) => column.id === id)).filter(Boolean).map((each, i) => ({ ...each, name: String(i + 1) }))
    : placed;
  const first = placed[0]?.column;
  return html`
    <section class="compare-turn" ref=${element} aria-label=${`Turn ${index + 1}`}>
      <${Question} turn=${turn} index=${index} />
      <div class="compare-answers">
        ${shown.map(({ column, name }) =>
          turn.answers[column.id]
            ? html`<${Answer} key=${column.id} turn=${turn} column=${column} name=${name} hidden=${hidden}
                answer=${turn.answers[column.id]} against=${column === first || hidden ? NOTHING : (turn.answers[first.id] ?? NOTHING)} />`
            : html`<div key=${column.id} class="compare-missing">
                <${Button} small icon="send" onClick=${() => retry(turn, column, seedOf(turn))}>Ask ${name} too<//></div>`)}
      </div>
      ${hidden && html`<${VoteBar} key=${shown.map(({ column }) => column.id).join()} turn=${turn} shown=${shown} />`}
      ${turn.vote && html`<${Voted} turn=${turn} />`}
    </section>`;
}

/** What a vote said; a good answer can be made one to follow. */
function Voted({ turn: { vote: { said, column }, text, answers } }) {
  const answer = answers[column]?.get();
  return html`
    <div class="compare-voted row small"><p role="status">${said}</p>
      ${answer?.text && may("author") && html`<${Button} small icon="book" onClick=${() => offerDemonstration({ question: text, answer: answer.text })}>Make it a demonstration<//>`}</div>`;
}

const seedOf = (turn) => Object.values(turn.answers).map((answer) => answer.get().seed).find((seed) => seed !== null) ?? drawn();

function Question({ turn, index }) {
  const [text, setText] = useState(null);
  const area = useRef(null);
  useEffect(() => {
    if (text !== null) area.current?.focus();
  }, [text === null]);
  const again = () => send({ text, images: turn.images, at: index });
  if (text !== null) {
    return html`
      <form class="compare-question stack" onSubmit=${(event) => { event.preventDefault(); again(); }}>
        <textarea class="textarea" ref=${area} aria-label=${`Question ${index + 1}`} value=${text}
          onInput=${(event) => setText(event.target.value)} onKeyDown=${(event) => event.key === "Escape" && setText(null)} />
        <div class="row"><${Button} kind="primary" type="submit" disabled=${!text.trim()}>Ask again<//>
          <${Button} kind="quiet" onClick=${() => setText(null)}>Cancel<//>
          <span class="faint small">What came after it is dropped.</span></div>
      </form>`;
  }
  return html`
    <div class="compare-question">
      <h2 class="unseen">Question ${index + 1}</h2>
      <div class="compare-said">
        ${turn.images.map((url, i) => html`<img key=${i} src=${url} alt=${`Image ${i + 1}`} />`)}
        <p>${turn.text}</p>
      </div>
      <${Button} small kind="quiet" icon="edit" label=${`Edit question ${index + 1}`} onClick=${() => setText(turn.text)} />
    </div>`;
}
