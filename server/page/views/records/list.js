// The list: filters in the address, the newest first, older ones as they are asked for.
import { classes, html, useEffect, useState } from "../../core/html.js";
import { call } from "../../core/api.js";
import { count, duration, moment } from "../../core/format.js";
import { go, link } from "../../core/router.js";
import { server } from "../../core/server.js";
import { useStore } from "../../core/store.js";
import { Button, Code, Input, Select } from "../../ui/controls.js";
import { Icon } from "../../ui/icons.js";
import { Empty, Failed, Loading, View } from "../../ui/view.js";
import { said } from "./record.js";

const PAGE = 50;
export const FILTERS = ["tenant", "user", "model", "alignment", "verdict", "since", "until"];
export const VERDICTS = {
  passed: ["good", "check", "passed"],
  failed: ["bad", "warn", "failed, released"],
  withheld: ["warn", "hidden", "withheld"],
};

/** The filters of an address, as another part of the view passes them on. */
export const filtersOf = (query) => Object.fromEntries(FILTERS.map((name) => [name, query.get(name)]).filter(([, value]) => value));

/** A local time of a field as the API takes it. */
const sent = (name, value) => (["since", "until"].includes(name) ? new Date(value).toISOString() : value);

export function List({ query }) {
  const filters = filtersOf(query);
  const asked = JSON.stringify(filters);
  const [found, setFound] = useState({ state: "loading", data: [], next: null, error: null });
  const [again, setAgain] = useState(0);
  const [shown, setShown] = useState(false);
  useEffect(() => {
    const control = new AbortController();
    setFound({ state: "loading", data: [], next: null, error: null });
    load(filters, null, control.signal).then(setFound, (error) => {
      if (error.name !== "AbortError") setFound({ state: "failed", data: [], next: null, error });
    });
    return () => control.abort();
  }, [asked, again]);
  const more = async () => {
    setFound((before) => ({ ...before, state: "more" }));
    try {
      const older = await load(filters, found.next);
      setFound({ ...older, data: [...found.data, ...older.data] });
    } catch (error) {
      setFound({ ...found, error });
    }
  };
  return html`
    <${View} title="Records" about="Past answers, and why they came out as they did"
      actions=${html`
        <${Button} small kind="quiet" icon="search" class="records-toggle" aria-expanded=${String(shown)} onClick=${() => setShown(!shown)}>Filter${asked === "{}" ? "" : ` (${Object.keys(filters).length})`}<//>
        <${Button} small kind="quiet" icon="retry" onClick=${() => setAgain((n) => n + 1)}>Read again<//>`}>
      <${Filters} filters=${filters} open=${shown} />
      ${found.state === "loading" && html`<${Loading} what="Reading the records" />`}
      ${found.error && html`<${Failed} error=${found.error} onRetry=${() => setAgain((n) => n + 1)} />`}
      ${found.state === "ready" && !found.data.length && html`<${Nothing} filtered=${asked !== "{}"} />`}
      ${found.data.length > 0 && html`
        <ol class="records-list card" aria-label="Records, the newest first">
          ${found.data.map((record) => html`<li key=${record.id}>${record.object === "alignment.erasure"
            ? html`<${Erased} record=${record} />` : html`<${Row} record=${record} filters=${filters} />`}</li>`)}
        </ol>
        <div class="records-more">
          ${found.next
            ? html`<${Button} disabled=${found.state === "more"} onClick=${more}>${found.state === "more" ? "Reading …" : "Older ones"}<//>`
            : html`<p class="faint small">${count(found.data.length)} in all.</p>`}
        </div>`}
    <//>`;
}

async function load(filters, after, signal) {
  const given = Object.entries(filters).map(([name, value]) => [name, sent(name, value)]);
  const query = new URLSearchParams([...given, ["limit", PAGE], ...(after ? [["after", after]] : [])]);
  const { data, next_after: next } = await call(`v1/alignment/records?${query}`, { signal });
  return { state: "ready", data, next, error: null };
}

function Filters({ filters, open }) {
  const { models, alignments, who } = useStore(server);
  // Typed text is sent when the field is left, or by Enter: not at every letter.
  const [typed, setTyped] = useState(filters);
  useEffect(() => setTyped(filters), [JSON.stringify(filters)]);
  const put = (fields) => go("records", [], { ...filters, ...fields }, { replace: true });
  const text = (name, label, more = {}) => html`
    <${Input} label=${label} value=${typed[name] ?? ""} autocomplete="off" ...${more}
      onValue=${(value) => setTyped({ ...typed, [name]: value })} onBlur=${() => (typed[name] ?? "") !== (filters[name] ?? "") && put({ [name]: typed[name] })} />`;
  const time = (name, label) => html`
    <${Input} label=${label} class="wide" type="datetime-local" value=${filters[name] ?? ""} onValue=${(value) => put({ [name]: value })} />`;
  return html`
    <form class=${classes("records-filters", open && "open")} role="search" aria-label="Filter the records" onSubmit=${(event) => { event.preventDefault(); put(typed); }}>
      ${who.operator && text("tenant", "Tenant", { placeholder: "all" })}
      ${text("user", "User", { placeholder: "anybody" })}
      <${Select} label="Model" value=${filters.model ?? ""} onValue=${(model) => put({ model })}
        options=${[["", "any"], ...choices(models.map(({ id }) => id), filters.model)]} />
      <${Select} label="Alignment" value=${filters.alignment ?? ""} onValue=${(alignment) => put({ alignment })}
        options=${[["", "any"], ...choices([...Object.keys(alignments), "inline"], filters.alignment)]} />
      <${Select} label="Verdict" value=${filters.verdict ?? ""} onValue=${(verdict) => put({ verdict })}
        options=${[["", "any"], ...Object.entries(VERDICTS).map(([name, [, , words]]) => [name, words])]} />
      ${time("since", "From")} ${time("until", "Until")}
      <button class="unseen" type="submit" tabindex="-1">Filter</button>
      ${Object.keys(filters).length > 0 && html`<div class="records-clear"><${Button} kind="quiet" icon="close" onClick=${() => go("records", [], {}, { replace: true })}>Clear<//></div>`}
    </form>`;
}

/** Names to choose from; one that is no longer served can still be looked for. */
const choices = (names, chosen) => [...new Set([...names, ...(chosen ? [chosen] : [])])].map((name) => [name, name]);

function Row({ record, filters }) {
  const { question, answers = [], model, alignment, usage, timing_ms: timing = {}, status } = record;
  const failed = status >= 400 || record.error;
  return html`
    <a class="records-row" href=${link("records", [record.id], filters)}>
      <time class="records-time faint nums" datetime=${record.time}>${moment(record.time)}</time>
      <span class="records-said">
        <span class="records-question">${said(question)}</span>
        <span class="records-answer soft">${failed ? `${status}: ${record.error?.message ?? record.error?.code ?? "failed"}` : said(answers[0])}</span>
      </span>
      <span class="records-who soft">${model ?? "no model"} · ${alignment ?? "none"}</span>
      <span class="records-verdict">
        ${failed ? html`<span class="chip bad"><${Icon} name="warn" size=${12} />error</span>` : html`<${Verdict} verdict=${record.verdict} />`}
      </span>
      <span class="records-took faint nums">${usage ? `${count(usage.completion_tokens)} tokens, ` : ""}${duration(timing.total)}</span>
    </a>`;
}

export function Verdict({ verdict }) {
  const known = VERDICTS[verdict];
  if (!known) return html`<span class="faint small">not judged</span>`;
  const [kind, icon, words] = known;
  return html`<span class=${`chip ${kind}`}><${Icon} name=${icon} size=${12} />${words}</span>`;
}

const Erased = ({ record }) => html`
  <div class="records-row records-erased">
    <time class="records-time faint nums" datetime=${record.time}>${moment(record.time)}</time>
    <span class="soft">${count(record.erased)} records of a user were erased${record.key_id ? `, with the key ${record.key_id}` : ""}.</span>
  </div>`;

function Nothing({ filtered }) {
  const { who } = useStore(server);
  if (filtered) return html`<${Empty} title="Nothing fits these filters" icon="search"><p>Widen the time, or clear a filter.</p><//>`;
  if (who.records) return html`<${Empty} title="No answer was recorded yet" icon="clock"><p>Ask something in Compare: its answer will be here.</p><//>`;
  return html`
    <${Empty} title="Nothing is recorded" icon="clock">
      <p>Records are off unless a tenant asks for them, in heedful.yaml:</p>
      <div class="records-yaml"><${Code} label="configuration" text=${`tenants:\n  ${who.tenant}:\n    records: {keep_days: 30, texts: full}`} /></div>
      <p class="small">With <code>texts: digests</code> no word is kept, and nothing can be replayed.</p>
    <//>`;
}
