// An item in a list: what it says, and what bounds it.
import { html } from "../../core/html.js";
import { link } from "../../core/router.js";
import { validity, when } from "./item.js";

export const ItemRow = ({ store, item, query }) => html`
  <a class="norms-item" href=${link("norms", [store, item.id], { ...query, tab: query.asOf ? "history" : "" })}>
    <span class="norms-says">
      <span class=${item.answer ? "norms-question" : "norms-text"}>${item.text}</span>
      ${item.answer && html`<span class="norms-answer">${item.answer}</span>`}
      <${Marks} item=${item} />
    </span>
    ${item.score !== undefined && html`<span class="norms-score nums"><span class="unseen">likeness </span>${item.score.toFixed(2)}
      <span class="norms-meter" aria-hidden="true"><span style=${{ width: `${Math.max(0, Math.min(1, item.score)) * 100}%` }} /></span></span>`}
  </a>`;

export function Marks({ item }) {
  const holds = validity(item);
  return html`
    <span class="norms-marks">
      ${item.mandatory && html`<span class="chip accent">mandatory</span>`}
      ${item.scope && html`<span class="chip">${item.scope}</span>`}
      ${holds === "future" && html`<span class="chip warn">valid from ${when(item.valid_from)}</span>`}
      ${holds === "past" && html`<span class="chip warn">not valid since ${when(item.valid_until)}</span>`}
      ${holds === "valid" && item.valid_until && html`<span class="chip">until ${when(item.valid_until)}</span>`}
      ${(item.tags ?? []).map((tag) => html`<span key=${tag} class="faint small">#${tag}</span>`)}
      ${item.source && html`<span class="faint small">${item.source}</span>`}
      ${item.version > 1 && html`<span class="faint small">version ${item.version}</span>`}
    </span>`;
}
