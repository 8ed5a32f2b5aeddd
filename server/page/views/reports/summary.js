// The figures of all columns in one table, each with what it rests on.
import { html } from "../../core/html.js";
import { count, duration } from "../../core/format.js";
import { columnKey, difference, named } from "./evaluation.js";
import { mean, median, wilson } from "./figures.js";

const percent = (value) => `${Math.round(100 * value)}%`;

export function Summary({ evaluated, a, b, judge }) {
  const { columns, judges, latency } = evaluated;
  const times = loads(latency);
  return html`
    <section class="card" aria-label="Figures">
      <div class="scroll-x" tabindex="0" role="region" aria-label="Figures by alignment">
        <table class="table reports-figures">
          <thead><tr>
            <th scope="col">Alignment</th>
            ${judges.map(({ id, title }) => html`<th key=${id} scope="col" class="num">${title}</th>`)}
            <th scope="col" class="num">calls</th><th scope="col" class="num">tokens</th><th scope="col" class="num">seconds</th>
            ${times.map((load) => html`<th key=${load} scope="col" class="num">median under ${load}</th>`)}
          </tr></thead>
          <tbody>${columns.map((column) => html`
            <tr key=${columnKey(column)} class=${column === a || column === b ? "reports-chosen" : undefined}>
              <th scope="row">${named(column, columns)}${column === columns[0] && html` <span class="chip">baseline</span>`}</th>
              ${judges.map((each) => html`<td key=${each.id} class="num"><${Judged} judge=${each} column=${column} baseline=${columns[0]} /></td>`)}
              <${Costs} rows=${[...(evaluated.answers.get(columnKey(column))?.values() ?? [])]} />
              ${times.map((load) => html`<td key=${load} class="num">${timed(latency, column, load)}</td>`)}
            </tr>`)}</tbody>
        </table>
      </div>
    </section>`;
}

function Judged({ judge, column, baseline }) {
  if (judge.pairs) {
    if (column === baseline) return html`<span class="faint">–</span>`;
    const against = judge.pairs.get(`${columnKey(column)}|${columnKey(baseline)}`) ?? judge.pairs.get(`${columnKey(baseline)}|${columnKey(column)}`);
    const given = [...(against?.keys() ?? [])].map((item) => difference(judge, baseline, column, item)).filter((value) => value !== null);
    return html`<${Share} values=${given.map((value) => (value + 1) / 2)} />`;
  }
  return html`<${Share} values=${[...(judge.values.get(columnKey(column))?.values() ?? [])]} />`;
}

/** A share with its interval where all values are 0 or 1, else a mean. */
function Share({ values }) {
  if (!values.length) return html`<span class="faint">not judged</span>`;
  const whole = values.every((value) => value === 0 || value === 1);
  const middle = mean(values);
  const [low, high] = whole ? wilson(values.filter(Boolean).length, values.length) : [null, null];
  return html`${whole ? percent(middle) : middle.toFixed(2)}<small>${whole ? `${percent(low)} to ${percent(high)}, ` : ""}n ${count(values.length)}</small>`;
}

function Costs({ rows }) {
  const costs = rows.filter(({ error }) => !error).map(({ cost }) => cost ?? {});
  const failed = rows.length - costs.length;
  const of = (pick, words) => {
    const values = costs.map(pick).filter(Number.isFinite);
    return values.length ? words(mean(values)) : "–";
  };
  return html`
    <td class="num">${of(({ calls }) => calls, (n) => n.toFixed(1))}</td>
    <td class="num">${of(({ prompt_tokens: read = 0, completion_tokens: wrote = 0 }) => read + wrote, (n) => count(Math.round(n)))}</td>
    <td class="num">${of(({ seconds }) => seconds, (n) => duration(n * 1000))}${failed > 0 && html`<small class="reports-failed">${count(failed)} failed</small>`}</td>`;
}

const loads = (latency) => [...new Set(latency.map(({ load }) => load))];

function timed(latency, { model, alignment }, load) {
  const ends = latency.filter((row) => row.model === model && row.alignment === alignment && row.load === load && !row.error).map((row) => row.end - row.intended);
  return ends.length ? html`${duration(1000 * median(ends))}<small>n ${count(ends.length)}</small>` : "–";
}
