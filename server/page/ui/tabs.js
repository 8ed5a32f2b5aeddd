// Tabs, with the arrow keys.
import { html, useId, useRef } from "../core/html.js";

/** `tabs`: `[name, title]`; the children are the open one's panel. */
export function Tabs({ tabs, open, onOpen, label, children }) {
  const id = useId();
  const list = useRef(null);
  const move = (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const at = tabs.findIndex(([name]) => name === open);
    const next = (at + by + tabs.length) % tabs.length;
    onOpen(tabs[next][0]);
    list.current.children[next].focus();
  };
  return html`
    <div>
      <div class="tabs" role="tablist" aria-label=${label} ref=${list} onKeyDown=${move}>
        ${tabs.map(([name, title]) => html`
          <button type="button" key=${name} role="tab" id=${`${id}-${name}`} aria-selected=${String(name === open)}
            aria-controls=${`${id}-panel`} tabindex=${name === open ? 0 : -1} onClick=${() => onOpen(name)}>${title}</button>`)}
      </div>
      <div class="tab-panel" role="tabpanel" id=${`${id}-panel`} aria-labelledby=${`${id}-${open}`}>${children}</div>
    </div>`;
}
