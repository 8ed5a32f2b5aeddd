// The same request once more, against the norms as they stood then or as they stand now, beside what was answered.
import { html, useEffect, useRef, useState } from "../../core/html.js";
import { duration, moment } from "../../core/format.js";
import { server } from "../../core/server.js";
import { useStore } from "../../core/store.js";
import { callTraced } from "../../core/traced.js";
import { Button } from "../../ui/controls.js";
import { Diff } from "../../ui/diff.js";
import { Drawer } from "../../ui/dialog.js";
import { announce } from "../../ui/toast.js";
import { Empty, Failed, Notice } from "../../ui/view.js";
import { Why } from "../../why/panel.js";
import { answerOf, bodyOf, normsIn, readsStores, said, textOf, unplayable, varietyOf } from "./record.js";

const WAYS = { then: "Norms as they stood then", now: "Norms as they stand now", again: "Asked again" };

export function Replay({ record, past }) {
  const known = useStore(server);
  const [runs, setRuns] = useState({});
  const controls = useRef({});
  useEffect(() => () => Object.values(controls.current).forEach((each) => each.abort()), []);
  const why = unplayable(record, known);
  if (why) return html`<${Empty} title="It can't be replayed" icon="retry"><p>${why}</p><//>`;
  const put = (way, fields) => setRuns((before) => ({ ...before, [way]: { ...before[way], ...fields } }));
  const play = async (way) => {
    controls.current[way]?.abort();
    const control = (controls.current[way] = new AbortController());
    const body = bodyOf(record, { asOf: way === "then" ? record.time : null, strategies: known.strategies });
    const began = performance.now();
    put(way, { state: "waiting", error: null });
    try {
      const answer = await callTraced(record.route.slice(1), { body, signal: control.signal });
      put(way, { state: "done", text: textOf(record.route, answer), trace: answer.alignment ?? null, ms: performance.now() - began, body });
      announce(`${WAYS[way]}: the answer is there`);
    } catch (error) {
      put(way, error.name === "AbortError" ? { state: "stopped" } : { state: "failed", error });
    }
  };
  const ways = readsStores(record) ? ["then", "now"] : ["again"];
  const played = ways.filter((way) => runs[way]);
  const variety = varietyOf(record);
  const seeded = record.parameters?.seed !== undefined || record.parameters?.temperature === 0;
  return html`
    <div class="stack">
      <div class="row">
        ${ways.map((way, i) => html`<${Button} key=${way} kind=${i === 0 ? "primary" : undefined} icon="retry"
          disabled=${runs[way]?.state === "waiting"} onClick=${() => play(way)}>${WAYS[way]}<//>`)}
      </div>
      <${Notice}>
        The same question, options and steps; prompts and verifiers are those of today.
        ${variety > 0 && ` What has ended has no vectors to tell variety by: as they stood then, demonstrations are picked by likeness alone, without the recorded diversity of ${variety}.`}
        ${seeded ? "" : " No seed was sent, so another wording alone says little: ask more than once."}
      <//>
      <div class=${`records-replay records-replay-${1 + played.length}`}>
        <${Column} title="As it was answered" about=${moment(record.time)}>
          <p class="records-text">${said(record.answers?.[0])}</p>
        <//>
        ${played.map((way) => html`<${Played} key=${way} way=${way} run=${runs[way]} record=${record} past=${past}
          onStop=${() => controls.current[way].abort()} />`)}
      </div>
    </div>`;
}

const Column = ({ title, about, foot, busy, children }) => html`
  <section class="card records-column" aria-label=${title} aria-busy=${busy ? "true" : "false"}>
    <header class="card-head"><h3>${title}</h3>${about && html`<span class="faint small push nums">${about}</span>`}</header>
    <div class="card-body stack">${children}</div>
    ${foot && html`<footer class="records-foot">${foot}</footer>`}
  </section>`;

function Played({ way, run, record, onStop }) {
  const [open, setOpen] = useState(false);
  const waiting = run.state === "waiting";
  const before = said(record.answers?.[0]);
  const same = run.state === "done" && run.text === before;
  const answer = { ...answerOf(record), text: run.text, trace: run.trace };
  return html`
    <${Column} title=${WAYS[way]} busy=${waiting} about=${run.state === "done" ? duration(run.ms) : null} foot=${run.state === "done" && html`
      <${Button} small kind="quiet" icon="why" disabled=${!run.trace} onClick=${() => setOpen(true)}>Why<//>
      <span class="soft small">${same ? "Word for word the same." : "Marked: what differs from the answer then."}</span>`}>
      ${waiting && html`<div class="row"><span class="spinner" aria-hidden="true" />Waiting for the answer <${Button} small icon="stop" onClick=${onStop}>Stop<//></div>`}
      ${run.state === "stopped" && html`<p class="faint">Stopped.</p>`}
      ${run.error && html`<${Failed} error=${run.error} />`}
      ${run.state === "done" && html`
        <p class="records-text"><${Diff} from=${before} to=${run.text} /></p>
        <${Items} before=${[...(record.norms ?? []), ...(record.demonstrations ?? [])]} now=${normsIn(run.trace)} />`}
      ${open && html`<${Drawer} title=${`Why: ${WAYS[way].toLowerCase()}`} onClose=${() => setOpen(false)}><${Why} answer=${answer} /><//>`}
    <//>`;
}

/** Which norms are others than those that were given then. */
function Items({ before, now }) {
  const named = (item) => `${item.store}/${item.id}`;
  const was = new Map(before.map((item) => [named(item), item.version]));
  const is = new Map(now.map((item) => [named(item), item.version]));
  const lines = [
    ...[...is].filter(([id]) => !was.has(id)).map(([id, version]) => ["new", "＋", `${id}, version ${version}`]),
    ...[...is].filter(([id, version]) => was.has(id) && was.get(id) !== version).map(([id, version]) => ["other", "≠", `${id}: version ${version}, was ${was.get(id)}`]),
    ...[...was].filter(([id]) => !is.has(id)).map(([id]) => ["gone", "−", `${id} was given then`]),
  ];
  if (!before.length && !now.length) return null;
  if (!lines.length) return html`<p class="soft small">It was given the same norms, in the same versions.</p>`;
  return html`<div><h4 class="records-label">Norms that differ</h4><ul class="records-differ small">
    ${lines.map(([kind, sign, text]) => html`<li key=${text} class=${`records-${kind}`}><span aria-hidden="true">${sign}</span> ${text}</li>`)}</ul></div>`;
}
