// Norms and demonstrations as they stood when an answer was given, beside what they are now.
import { html, useEffect, useState } from "../../core/html.js";
import { call } from "../../core/api.js";
import { moment } from "../../core/format.js";
import { link } from "../../core/router.js";
import { Diff } from "../../ui/diff.js";
import { Icon } from "../../ui/icons.js";
import { Empty, Notice } from "../../ui/view.js";
import { place } from "./record.js";

const parts = (path) => path.split("/").map(encodeURIComponent).join("/");

/** `{then, now, erased, error}` of each item by its place; null while it is read. */
export function usePast(record, mine) {
  const [past, setPast] = useState(null);
  useEffect(() => {
    const control = new AbortController();
    const items = [...(record.norms ?? []), ...(record.demonstrations ?? [])];
    Promise.all(items.map(async (item) => [place(item), mine ? await read(item, control.signal) : { error: null }])).then(
      (found) => setPast(new Map(found)), () => {});
    return () => control.abort();
  }, [record]);
  return past;
}

async function read(item, signal) {
  try {
    const { data } = await call(`v1/alignment/stores/${encodeURIComponent(item.store)}/history/${parts(item.id)}`, { signal });
    const then = data.find(({ version }) => version === item.version) ?? null;
    return { then, now: data.find(({ version, ended }) => version && !ended) ?? null, erased: data.find(({ erased }) => erased)?.erased ?? null, error: null };
  } catch (error) {
    if (error.name === "AbortError") throw error;
    return { then: null, now: null, erased: null, error };
  }
}

/** Texts as `answerOf` puts them into the trace. */
export const textsOf = (past) =>
  new Map([...(past ?? [])].filter(([, { then }]) => then).map(([at, { then }]) => [at, { text: then.text, source: then.source, answer: then.answer }]));

export function Past({ record, past, mine }) {
  const items = [...(record.norms ?? []), ...(record.demonstrations ?? [])];
  if (!items.length) return html`<${Empty} title="It was given no norms and no demonstrations" icon="book" />`;
  const changed = items.filter((item) => state(past?.get(place(item))) !== "stands").length;
  return html`
    <div class="stack">
      ${!mine && html`<${Notice} kind="warn">Their texts are in the stores of the tenant “${record.tenant}”, which its own authors and admins read.<//>`}
      ${mine && past && html`<p class="soft">${changed === 0 ? "All of them still stand as they did." : `${changed} of ${items.length} ${changed === 1 ? "is" : "are"} no longer what the model was given.`}</p>`}
      <ol class="records-items">
        ${items.map((item) => html`<li key=${place(item)}><${ItemThen} item=${item} known=${past?.get(place(item))} loading=${mine && past === null} /></li>`)}
      </ol>
    </div>`;
}

function state(known) {
  if (!known || known.error !== null || (!known.then && !known.erased)) return "unknown";
  if (!known.then) return "erased";
  if (!known.now) return "ended";
  return known.now.version === known.then.version ? "stands" : "changed";
}

const SAID = {
  stands: ["good", "check", () => "still stands"],
  changed: ["warn", "edit", ({ now }) => `version ${now.version} since ${moment(now.recorded)}`],
  ended: ["bad", "trash", ({ then }) => `ended ${moment(then.ended)}`],
  erased: ["bad", "trash", ({ erased }) => `erased ${moment(erased)}`],
};

function ItemThen({ item, known, loading }) {
  const how = state(known);
  const [kind, icon, words] = SAID[how] ?? [];
  const why = item.mandatory ? "mandatory" : item.score !== undefined ? `score ${item.score}` : null;
  return html`
    <article class="card">
      <header class="card-head">
        <h3><a href=${link("norms", [item.store, item.id])}>${item.id}</a></h3>
        <span class="faint small">${item.store}, version ${item.version}${why ? `, ${why}` : ""}</span>
        ${kind && html`<span class=${`chip push ${kind}`}><${Icon} name=${icon} size=${12} />${words(known)}</span>`}
      </header>
      <div class=${`card-body ${how === "changed" ? "records-two" : ""}`}>
        ${loading && html`<p class="faint">Reading its history …</p>`}
        ${known?.error && html`<p class="soft">${known.error.message}</p>`}
        ${how === "erased" && html`<p class="soft">What it said was erased from its store.</p>`}
        ${how === "changed" && html`
          <div><h4 class="records-label">Then</h4><p class="records-text"><${Text} version=${known.then} /></p></div>
          <div><h4 class="records-label">Now</h4><p class="records-text"><${Diff} from=${written(known.then)} to=${written(known.now)} /></p></div>`}
        ${["stands", "ended"].includes(how) && html`<p class="records-text"><${Text} version=${known.then} /></p>`}
      </div>
    </article>`;
}

const written = ({ text, answer }) => (answer ? `${text}\n→ ${answer}` : text);
const Text = ({ version }) => html`${version.source && html`<span class="faint">${version.source}: </span>`}${written(version)}`;
