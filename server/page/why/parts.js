// What the cards of the steps have in common.
import { classes, html } from "../core/html.js";
import { plural } from "../core/format.js";
import { Icon } from "../ui/icons.js";
import { itemLink } from "../views/norms/link.js";

export const Operators = () => html`<span class="chip" title="A step of this server's floor, which no request can leave out">the operator's</span>`;

/** Whether something passed, in words and with a sign. */
export const Passed = ({ passed, yes = "passed", no = "failed" }) => html`
  <span class=${classes("chip", passed ? "good" : "bad")}><${Icon} name=${passed ? "check" : "warn"} size=${12} />${passed ? yes : no}</span>`;

/** A number in [low, 1] with a bar. */
export function Score({ value, low = 0, name = "score" }) {
  if (!Number.isFinite(value)) return null;
  const share = Math.min(1, Math.max(0, (value - low) / (1 - low)));
  return html`
    <span class="why-score nums" title=${`${name} ${value}`}>
      <span class="unseen">${name} </span>${value.toFixed(2)}
      <span class="why-bar" aria-hidden="true"><span style=${{ width: `${share * 100}%` }}></span></span>
    </span>`;
}

/** What each verifier said. */
export function Verdicts({ verdicts }) {
  const named = Object.entries(verdicts ?? {});
  if (!named.length) return null;
  return html`
    <ul class="why-verdicts">
      ${named.map(([name, { score, passed, critique, passed_over: over, ...facts }]) => html`
        <li key=${name}>
          <div class="row"><strong>${name}</strong>${over ? html`<span class="chip warn">failed, and passed over</span>` : passed !== undefined && html`<${Passed} passed=${passed} />`}
            <${Score} value=${score} /></div>
          ${critique && html`<p class="why-critique">${critique}</p>`}
          <${Facts} facts=${facts} />
        </li>`)}
    </ul>`;
}

/** Whatever else is known, as names and values. */
export function Facts({ facts }) {
  const known = Object.entries(facts).filter(([, value]) => value !== null && value !== undefined && value !== "");
  if (!known.length) return null;
  return html`
    <dl class="why-facts">
      ${known.map(([name, value]) => html`<div key=${name}><dt>${name.replaceAll("_", " ")}</dt><dd>${shown(value)}</dd></div>`)}
    </dl>`;
}

const shown = (value) => {
  if (typeof value === "string" || typeof value === "number") return String(value);
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (Array.isArray(value) && value.every((each) => typeof each !== "object")) return value.join(", ") || "none";
  return html`<code>${JSON.stringify(value)}</code>`;
};

export const Quote = ({ children }) => html`<p class="why-quote">${children}</p>`;

/** Norms or demonstrations: those that went in, and those that did not and why. `draw(item)` draws one's text. */
export function Items({ used = [], dropped = [], what, store, draw }) {
  const list = (items) => html`<ul class="why-items">${items.map((item) => html`<${Item} key=${item.id} item=${item} store=${store} draw=${draw} />`)}</ul>`;
  return html`
    ${used.length ? list(used)
      : html`<p class="soft">No ${what} fitted: the model was given none.</p>`}
    ${dropped.length > 0 && html`
      <details class="why-more"><summary>${plural(dropped.length, what)} left out</summary>
        ${list(dropped)}
      </details>`}`;
}

function Item({ item, store, draw }) {
  const named = html`${item.id}${item.version !== undefined && ` v${item.version}`}`;
  const where = itemLink(item, store);
  return html`
    <li class=${classes(item.reason && "left")}>
      ${draw(item)}
      <div class="row small soft">
        ${item.mandatory ? html`<span class="chip accent">mandatory</span>` : html`<${Score} value=${item.score} name="similarity" />`}
        ${item.source && html`<span>${item.source}</span>`}
        ${where ? html`<a class="mono" href=${where}>${named}</a>` : html`<span class="mono faint">${named}</span>`}
        ${item.tokens !== undefined && html`<span class="faint nums">${plural(item.tokens, "token")}</span>`}
        ${item.reason && html`<span class="chip warn">left out: ${item.reason.replaceAll("_", " ")}</span>`}
      </div>
    </li>`;
}
