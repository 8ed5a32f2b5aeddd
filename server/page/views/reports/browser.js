// An evaluation drawn: its figures, what changed between two columns, and the answers to one item side by side.
import { html, useMemo } from "../../core/html.js";
import { count } from "../../core/format.js";
import { go } from "../../core/router.js";
import { Button, Input, Select } from "../../ui/controls.js";
import { Empty, Notice } from "../../ui/view.js";
import { CHANGES, Change } from "./change.js";
import { columnKey, compared, named, questionOf } from "./evaluation.js";
import { itemsNeeded, signTest } from "./figures.js";
import { Item } from "./item.js";
import { Summary } from "./summary.js";

const AT_ONCE = 200;

/** `path`: the part of the address that this stands under; what is filtered by is in its query, with `more`. */
export function Browser({ evaluated, query, path, more = {}, onVoted }) {
  const { columns, judges } = evaluated;
  const chosen = (name, usual) => columns.find((each) => columnKey(each) === query.get(name)) ?? usual;
  const a = chosen("a", columns[0]);
  const b = chosen("b", columns.find((each) => each !== a && each.model === a.model) ?? columns.find((each) => each !== a) ?? a);
  const judge = judges.find(({ id }) => id === query.get("judge")) ?? judges[0] ?? null;
  const [set, verdict, find] = ["set", "verdict", "find"].map((name) => query.get(name) ?? "");
  const found = useMemo(() => (a ? compared(evaluated, { a, b, judge, set, verdict, find }) : null), [evaluated, a, b, judge, set, verdict, find]);
  if (!columns.length) return html`<${Empty} title="It holds no answers" icon="chart"><p>Only times were measured.</p><//>`;
  const put = (fields) => go("reports", path, { ...Object.fromEntries(query), ...more, ...fields }, { replace: true });
  const at = found.shown.findIndex(({ key }) => key === query.get("item"));
  const open = found.shown[at] ?? null;
  const shown = found.shown.slice(0, Number(query.get("many")) || AT_ONCE);
  const sets = [...new Set([...evaluated.items.values()].map((item) => item.set))];
  const names = columns.map((each) => [columnKey(each), named(each, columns)]);
  return html`
    <div class="stack">
      ${evaluated.problems.map((text) => html`<${Notice} key=${text} kind="warn">${text}<//>`)}
      <${Summary} evaluated=${evaluated} a=${a} b=${b} judge=${judge} />
      <section class="stack" aria-label="Item by item">
        <form class="reports-filters" role="search" aria-label="Filter the items" onSubmit=${(event) => event.preventDefault()}>
          <${Select} label="Baseline" value=${columnKey(a)} options=${names} onValue=${(value) => put({ a: value })} />
          <${Select} label="Candidate" value=${columnKey(b)} options=${names} onValue=${(value) => put({ b: value })} />
          <${Select} label="Judged by" value=${judge?.id ?? ""} onValue=${(value) => put({ judge: value })}
            options=${judges.length ? judges.map(({ id, title }) => [id, title]) : [["", "nobody yet"]]} />
          <${Select} label="Set" value=${set} options=${[["", "all"], ...sets]} onValue=${(value) => put({ set: value })} />
          <${Input} label="Words" type="search" value=${find} placeholder="in question or answers" onValue=${(value) => put({ find: value })} />
        </form>
        <${Changes} counts=${found.counts} verdict=${verdict} onVerdict=${(value) => put({ verdict: value })} />
        <${Told} counts=${found.counts} a=${named(a, columns)} b=${named(b, columns)} same=${a === b} />
        <div class=${`reports-items ${open ? "opened" : ""}`}>
          <div class="card reports-pick">
            ${shown.length === 0 && html`<p class="card-body faint">No item fits.</p>`}
            <ol aria-label="Items">${shown.map((each) => html`
              <li key=${each.key}><button type="button" class="reports-row" aria-current=${each === open ? "true" : undefined} onClick=${() => put({ item: each.key })}>
                <${Change} change=${each.change} />
                <span class="reports-question">${questionOf(each.item) || each.key}</span>
              </button></li>`)}</ol>
            ${shown.length < found.shown.length && html`<div class="card-body"><${Button} small onClick=${() => put({ many: shown.length + AT_ONCE })}>Show more of ${count(found.shown.length)}<//></div>`}
          </div>
          ${open
            ? html`<${Item} key=${open.key} evaluated=${evaluated} found=${open} a=${a} b=${b} judge=${judge} onVoted=${onVoted}
                onClose=${() => put({ item: null })}
                onBefore=${at > 0 && (() => put({ item: found.shown[at - 1].key }))}
                onNext=${at + 1 < found.shown.length && (() => put({ item: found.shown[at + 1].key }))} />`
            : html`<div class="card reports-none"><${Empty} title="Choose an item" icon="columns"><p>Its two answers stand here side by side.</p><//></div>`}
        </div>
      </section>
    </div>`;
}

function Changes({ counts, verdict, onVerdict }) {
  const all = Object.values(counts).reduce((sum, n) => sum + n, 0);
  const choices = [["", `All ${count(all)}`], ...Object.entries(CHANGES).map(([name, [, , words]]) => [name, `${words} ${count(counts[name])}`])];
  return html`<div class="row" role="group" aria-label="What changed from baseline to candidate">
    ${choices.map(([name, words]) => html`<${Button} key=${name} small pressed=${String(verdict === name)} onClick=${() => onVerdict(name)}>${words}<//>`)}</div>`;
}

/** What the counts allow one to say, and how many items would say more. */
function Told({ counts, a, b, same }) {
  const { better, worse, alike } = counts;
  const judged = better + worse + alike;
  if (same || !judged) return null;
  const p = signTest(better, worse);
  const gap = 0.1;
  const differing = (better + worse) / judged;
  const needed = itemsNeeded(gap, differing || gap);
  const words = p < 0.05
    ? `${b} is told apart from ${a}: ${better > worse ? "better" : "worse"} (exact sign test, p = ${p < 0.001 ? "under 0.001" : p.toFixed(3)}).`
    : `${b} is not told apart from ${a} on ${count(judged)} items (exact sign test, p = ${p.toFixed(2)}). ${needed > judged
        ? `To find a difference of 10 points about ${count(needed)} would be needed.`
        : "As many would most likely have shown a difference of 10 points."}`;
  return html`<p class="soft" role="status">${words}</p>`;
}
