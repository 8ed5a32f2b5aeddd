// One record: what was asked and answered, why, its norms then and now, and the same once more.
import { html, useEffect, useState } from "../../core/html.js";
import { call } from "../../core/api.js";
import { count, duration, moment } from "../../core/format.js";
import { go, link } from "../../core/router.js";
import { server } from "../../core/server.js";
import { useStore } from "../../core/store.js";
import { Button, Code } from "../../ui/controls.js";
import { Tabs } from "../../ui/tabs.js";
import { Failed, Loading, Notice, View } from "../../ui/view.js";
import { Why } from "../../why/panel.js";
import { Verdict, filtersOf } from "./list.js";
import { Past, textsOf, usePast } from "./past.js";
import { answerOf, said } from "./record.js";
import { Replay } from "./replay.js";

export function Opened({ id, query }) {
  const [found, setFound] = useState({ record: null, error: null });
  const [again, setAgain] = useState(0);
  useEffect(() => {
    const control = new AbortController();
    setFound({ record: null, error: null });
    const path = id.split("/").map(encodeURIComponent).join("/");
    call(`v1/alignment/records/${path}`, { signal: control.signal }).then(
      (record) => setFound({ record, error: null }),
      (error) => error.name !== "AbortError" && setFound({ record: null, error }),
    );
    return () => control.abort();
  }, [id, again]);
  const back = html`<a class="button small quiet" href=${link("records", [], filtersOf(query))}>All records</a>`;
  return html`
    <${View} title="Record" about=${found.record ? moment(found.record.time) : null} actions=${back}>
      ${found.error && html`<${Failed} error=${found.error} onRetry=${() => setAgain((n) => n + 1)} />`}
      ${!found.record && !found.error && html`<${Loading} what="Reading the record" />`}
      ${found.record && html`<${Shown} record=${found.record} query=${query} />`}
    <//>`;
}

const TABS = [["why", "Why"], ["norms", "Norms then and now"], ["replay", "Replay"], ["record", "Record"]];

function Shown({ record, query }) {
  const { who } = useStore(server);
  const mine = record.tenant === who.tenant;
  const past = usePast(record, mine);
  const open = TABS.some(([name]) => name === query.get("tab")) ? query.get("tab") : "why";
  const show = (tab) => go("records", [record.id], { ...filtersOf(query), tab: tab === "why" ? null : tab }, { replace: true });
  if (record.object === "alignment.erasure") return html`<${Notice}>${count(record.erased)} records of a user were erased.<//>`;
  return html`
    <div class="records-opened">
      <section class="card records-summary" aria-label="What was asked and answered">
        <div class="card-body stack">
          <p class="records-asked">${said(record.question) || html`<span class="faint">No words were asked.</span>`}</p>
          ${(record.answers ?? []).map((answer, i) => html`<${Said} key=${i} answer=${answer} many=${record.answers.length > 1} />`)}
          ${record.error && html`<${Notice} kind="bad">${record.status}: ${record.error.message ?? record.error.code ?? "the request failed"}<//>`}
          ${record.client_gone && html`<${Notice} kind="warn">The client left before the end.<//>`}
          ${record.incomplete && html`<${Notice} kind="warn">Not whole: ${record.incomplete}.<//>`}
        </div>
        <${Facts} record=${record} />
      </section>
      <section class="card records-more-of" aria-label="More of it">
        <div class="card-body">
          <${Tabs} label="Parts of the record" tabs=${TABS} open=${open} onOpen=${show}>
            ${open === "why" && html`<${Why} answer=${answerOf(record, textsOf(past))} />`}
            ${open === "norms" && html`<${Past} record=${record} past=${past} mine=${mine} />`}
            ${open === "replay" && html`<${Replay} record=${record} past=${past} />`}
            ${open === "record" && html`<${Code} label="record" text=${JSON.stringify(record, null, 2)} />`}
          <//>
        </div>
      </section>
    </div>`;
}

const Said = ({ answer, many }) => html`
  <div>
    ${many && html`<h3 class="records-label">Choice ${answer.index + 1}</h3>`}
    <p class="records-text">${said(answer)}</p>
    ${(answer.tool_calls ?? []).map((each, i) => html`<pre key=${i} class="records-call">${each.name}(${said(each.arguments)})</pre>`)}
  </div>`;

function Facts({ record }) {
  const { usage, timing_ms: timing = {}, users = [] } = record;
  const facts = [
    ["model", record.model ?? "none"],
    ["alignment", record.alignment ?? "none"],
    ["verdict", html`<${Verdict} verdict=${record.verdict} />`],
    record.rounds > 0 && ["rounds", record.rounds],
    ["tokens", usage ? `${count(usage.prompt_tokens)} read, ${count(usage.completion_tokens)} written` : "–"],
    ["time", duration(timing.total)],
    timing.first_byte !== null && timing.first_byte !== undefined && ["first byte", duration(timing.first_byte)],
    ["tenant", record.tenant],
    users.length > 0 && ["user", users.join(", ")],
    record.key_id && ["key", record.key_id],
    ["path", record.route],
    ["id", record.id],
  ].filter(Boolean);
  return html`<dl class="records-facts">${facts.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}
