// The tree for the keyboard and for who listens: of its nodes those beside the one in hand, by the pattern of a tree.
import { html, useEffect, useId, useRef } from "../../core/html.js";
import { plural } from "../../core/format.js";
import { inAnswer, judged, line } from "./model.js";

/** What is said of a node. */
export function spoken(node) {
  if (node.depth === 0) return "The beginning of the answer";
  const facts = [
    line(node),
    inAnswer(node) ? "part of the answer" : "tried and left",
    `value ${node.value.toFixed(2)}, ${judged(node) === "mixed" ? "neither good nor bad" : `judged ${judged(node)}`}`,
    plural(node.visits, "visit"),
    node.rewinds ? "came back to from another branch" : "",
    node.end ? "ends the answer" : "",
  ];
  return facts.filter(Boolean).join("; ");
}

export function KeyTree({ tree, marked, there, onMark, onToggle, onFocus }) {
  const id = useId();
  const list = useRef(null);
  const wants = useRef(false); // whether the focus goes along
  const siblings = (marked.parent?.children ?? [tree.root]).filter(there);
  const children = marked.children.filter(there);
  useEffect(() => {
    if (!wants.current) return;
    wants.current = false;
    list.current.querySelector("[tabindex='0']")?.focus();
  }, [marked]);
  const move = (event) => {
    const at = siblings.indexOf(marked);
    const to = {
      ArrowRight: () => (marked.closed ? onToggle(marked) : children[0]),
      ArrowLeft: () => marked.parent,
      ArrowDown: () => siblings[at + 1],
      ArrowUp: () => siblings[at - 1],
      Home: () => tree.root,
      End: () => tree.commits.filter(({ node }) => there(node)).at(-1)?.node,
      Enter: () => onToggle(marked),
      " ": () => onToggle(marked),
    }[event.key];
    if (!to) return;
    event.preventDefault();
    const node = to();
    if (!node) return;
    wants.current = true;
    onMark(node);
  };
  return html`
    <div class="unseen" id=${id}>Right goes into a branch, left back to where it began, up and down to the other branches, Enter folds.</div>
    <ul class="why-keys" role="tree" aria-label="Search tree" aria-describedby=${id} ref=${list} onKeyDown=${move}
      onFocusIn=${() => onFocus(true)} onFocusOut=${() => onFocus(false)}>
      ${siblings.map((node, i) => html`
        <li key=${node.id} role="treeitem" tabindex=${node === marked ? 0 : -1} aria-selected=${String(node === marked)}
          aria-level=${node.depth + 1} aria-posinset=${i + 1} aria-setsize=${siblings.length}
          aria-expanded=${node.children.some(there) ? String(!node.closed) : undefined}>${spoken(node)}</li>`)}
    </ul>`;
}
