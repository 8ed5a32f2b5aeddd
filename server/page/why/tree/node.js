// One node in words: what it says, where, and what came of it.
import { html } from "../../core/html.js";
import { plural } from "../../core/format.js";
import { Button } from "../../ui/controls.js";
import { Facts, Score } from "../parts.js";
import { count } from "./draw.js";
import { inAnswer, judged } from "./model.js";

const BEFORE = 160; // characters of what led there

export function Node({ node, closed, onToggle }) {
  let before = "";
  for (let at = node.parent; at && before.length < BEFORE; at = at.parent) before = at.text + before;
  const cut = before.length > BEFORE;
  if (cut) before = before.slice(-BEFORE);
  if (node.depth === 0) return html`<section class="why-node" aria-label="The node in hand"><p class="soft">Here the answer begins. Point at a node, or go along the tree with the arrow keys.</p></section>`;
  const words = { good: "judged good", bad: "judged bad", mixed: "judged neither good nor bad" };
  return html`
    <section class="why-node" aria-label="The node in hand">
      <p class="why-text"><span class="faint">${cut && "…"}${before}</span><strong>${node.text || (node.end ? "(the end)" : "(nothing)")}</strong></p>
      <div class="row small">
        <span class=${`chip ${{ good: "good", bad: "bad" }[judged(node)] ?? ""}`}>${words[judged(node)]}</span>
        <span class=${`chip ${inAnswer(node) ? "accent" : ""}`}>${node.committed ? `commit ${node.committed}` : node.taken ? "went out uncommitted" : "tried and left"}</span>
        <${Score} value=${node.value} low=${-1} name="value" />
        ${node.children.length > 0 && html`<${Button} small class="push" kind="quiet" icon=${closed ? "right" : "down"} onClick=${onToggle}>${closed ? `Unfold ${count(node)}` : "Fold"}<//>`}
      </div>
      <${Facts} facts=${{
        visits: node.visits,
        "with shares of like ones": node.weight !== node.visits ? Number(node.weight.toFixed(2)) : null,
        prior: node.prior,
        "first reached by": node.id > 0 ? `search ${node.id}` : null,
        rewinds: node.rewinds ? plural(node.rewinds, "search", "searches") + " came back to it" : null,
        ends: node.end,
        branches: node.children.length || null,
      }} />
    </section>`;
}
