// Running: what goes on in the server now, from /metrics and /health/ready.
import { html, useEffect } from "../core/html.js";
import { count, duration } from "../core/format.js";
import { key, wanted } from "../core/key.js";
import { server } from "../core/server.js";
import { useStore } from "../core/store.js";
import { Button } from "../ui/controls.js";
import { Icon } from "../ui/icons.js";
import { Empty, Failed, Loading, Notice, View } from "../ui/view.js";
import { Spark } from "./running/spark.js";
import { look, watch, watched } from "./running/watch.js";

export default function Running() {
  const { state, error, points, now } = useStore(watched);
  const { who } = useStore(server);
  const mine = useStore(key);
  useEffect(watch, [mine]);
  const refused = error?.status === 403;
  return html`
    <${View} title="Running" about=${now && !refused ? "Every 2 seconds while this tab is looked at" : null}>
      ${refused && html`
        <${Empty} title="Not with this key" icon="key">
          <p>This server shows its figures to the admins of the tenant “default” alone; yours is a key of the role ${who.role} of “${who.tenant}”.</p>
          <${Button} onClick=${() => wanted("")}>Use another key<//>
        <//>`}
      ${error && !refused && html`<${Failed} error=${error} onRetry=${look} />`}
      ${state === "loading" && html`<${Loading} what="Reading the figures" />`}
      ${now && !refused && html`<${Figures} points=${points} now=${now} />`}
    <//>`;
}

const perSecond = (value) => (value === null || value === undefined ? "–" : value === 0 ? "0" : value < 10 ? value.toFixed(value < 1 ? 2 : 1) : count(Math.round(value)));
const seconds = (value) => (value === null || value === undefined ? "–" : duration(value * 1000));

function Figures({ points, now }) {
  if (!now.counted) {
    return html`<${Empty} title="Requests are not counted" icon="pulse"><p>This server runs with <code>metrics: none</code>.</p><//>`;
  }
  const last = points.at(-1);
  return html`
    <div class="stack running">
      <${Health} now=${now} />
      <div class="running-tiles">
        <${Tile} title="Under way" value=${count(now.running)} unit="requests" points=${points} of="running" />
        <${Tile} title="Answers" value=${perSecond(last?.rate)} unit="a second" points=${points} of="rate" />
        <${Tile} title="First token" value=${seconds(last?.first)} unit="median, half a minute" points=${points} of="first" />
        <${Tile} title="Tokens written" value=${perSecond(last?.tokens)} unit=${last?.tokens ? `a second, ${Math.round((100 * last.hidden) / last.tokens)}% hidden` : "a second"} points=${points} of="tokens" />
        <${Tile} title="Waiting" value=${count(now.queue ?? 0)} unit="in the queue" points=${points} of="queue" />
        <${Tile} title="Errors" value=${perSecond(last?.errors)} unit="a second" points=${points} of="errors" />
      </div>
      <section class="card" aria-labelledby="running-alignments">
        <header class="card-head"><h2 id="running-alignments">By alignment</h2><span class="faint small push">rates and times of the last half minute, else since the start</span></header>
        ${now.rows.length ? html`<${Rows} rows=${now.rows} />` : html`<${Empty} title="No request for a model yet" icon="pulse"><p>Ask something in Compare; it is counted when its answer has ended.</p><//>`}
      </section>
      <div class="running-lists">
        <${Counts} title="Refused" empty="Nobody was refused by a limit, a budget or a full queue." rows=${now.refusals} name=${(reason) => REASONS[reason] ?? reason.replaceAll("_", " ")} />
        <${Counts} title="Errors since the start" empty="No request has failed." rows=${now.errors} name=${(error) => error} />
        <${Upstreams} upstreams=${now.upstreams} />
      </div>
    </div>`;
}

const REASONS = { budget: "a spent budget", queue_full: "a full queue", requests_per_minute: "requests a minute", tokens_per_minute: "tokens a minute" };

function Health({ now }) {
  const { reasons = [] } = now.ready;
  const dead = now.engines.filter(([, up]) => !up).map(([model]) => model);
  const down = now.upstreams.filter(({ up }) => !up).map(({ name }) => name);
  const told = [
    ...reasons.map((reason) => ["bad", typeof reason === "string" ? reason : JSON.stringify(reason)]),
    ...dead.map((model) => ["bad", `The engine of ${model} has died.`]),
    ...down.map((name) => ["warn", `The upstream ${name} has failed three times in a row.`]),
    ...now.lost.map(([what, n]) => ["warn", `${count(n)} ${{ records: "records", access_log: "lines of the access log", spans: "requests' spans" }[what]} were lost.`]),
  ];
  if (!told.length) return html`<${Notice} kind="good">Everything is up: ${now.engines.length} ${now.engines.length === 1 ? "model" : "models"} can answer.<//>`;
  return told.map(([kind, text]) => html`<${Notice} key=${text} kind=${kind}>${text}<//>`);
}

function Tile({ title, value, unit, points, of }) {
  const values = points.map((point) => point[of]);
  const top = Math.max(0, ...values.filter((each) => each !== null));
  const shown = of === "first" ? seconds(top) : perSecond(top);
  return html`
    <section class="card running-tile" aria-label=${title}>
      <h2 class="running-title">${title}</h2>
      <p><strong class="running-value nums">${value}</strong> <span class="faint small">${unit}</span></p>
      <${Spark} values=${values} most=${Math.max(30, values.length)} label=${`${title} over the last ${values.length * 2} seconds, ${shown} at most`} />
      <span class="running-top faint nums" aria-hidden="true">${top > 0 ? `max ${shown}` : ""}</span>
    </section>`;
}

const Rows = ({ rows }) => html`
  <div class="scroll-x" tabindex="0" role="region" aria-label="Figures by alignment"><table class="table running-table">
    <thead><tr>
      <th scope="col">Alignment</th><th scope="col" class="num">a second</th><th scope="col" class="num">answers</th>
      <th scope="col" class="num">failed</th><th scope="col" class="num">first token</th><th scope="col" class="num">90%</th>
      <th scope="col" class="num">whole</th><th scope="col" class="num">calls each</th><th scope="col" class="num">hidden tokens</th>
    </tr></thead>
    <tbody>${rows.map((row) => html`
      <tr key=${row.name}>
        <th scope="row">${row.name}</th>
        <td class="num">${perSecond(row.rate)}</td><td class="num">${count(row.total)}</td>
        <td class="num">${row.failed ? html`<span class="running-bad"><${Icon} name="warn" size=${12} /> ${count(row.failed)}</span>` : "0"}</td>
        <td class="num">${seconds(row.first)}</td><td class="num">${seconds(row.first90)}</td><td class="num">${seconds(row.whole)}</td>
        <td class="num">${row.calls && row.total ? (row.calls / row.total).toFixed(1) : "–"}</td>
        <td class="num">${row.tokens ? html`${count(row.hidden ?? 0)} <span class="faint">${Math.round((100 * (row.hidden ?? 0)) / row.tokens)}%</span>` : "–"}</td>
      </tr>`)}</tbody>
  </table></div>`;

const Counts = ({ title, rows, empty, name }) => html`
  <section class="card" aria-label=${title}>
    <header class="card-head"><h2>${title}</h2></header>
    ${rows.length
      ? html`<table class="table"><tbody>${rows.map(([key, n]) => html`<tr key=${key}><th scope="row">${name(key)}</th><td class="num">${count(n)}</td></tr>`)}</tbody></table>`
      : html`<p class="card-body faint small">${empty}</p>`}
  </section>`;

const Upstreams = ({ upstreams }) => html`
  <section class="card" aria-label="Upstreams">
    <header class="card-head"><h2>Upstreams</h2></header>
    ${upstreams.length
      ? html`<ul class="running-upstreams">${upstreams.map(({ name, up, failures }) => html`
          <li key=${name}>
            <span class=${`chip ${up ? "good" : "bad"}`}><${Icon} name=${up ? "check" : "warn"} size=${12} />${up ? "up" : "down"}</span>
            <span class="running-upstream">${name}</span>
            ${failures.length > 0 && html`<span class="faint small">${failures.map(([error, n]) => `${count(n)} × ${error.replaceAll("_", " ")}`).join(", ")}</span>`}
          </li>`)}</ul>`
      : html`<p class="card-body faint small">All models run in this process.</p>`}
  </section>`;
