// Dialogs: the browser's own, which keep the focus inside and close on Escape.
import { classes, html, useEffect, useId, useRef } from "../core/html.js";
import { Boundary } from "./boundary.js";
import { Button } from "./controls.js";

/** Open for as long as it is drawn. `kind`: "drawer" at the side, "wide", or none. `foot`: what stands below. */
export function Dialog({ title, kind, foot, onClose, children }) {
  const element = useRef(null);
  const id = useId();
  useEffect(() => {
    const before = document.activeElement;
    element.current.showModal();
    return () => before?.isConnected && before.focus();
  }, []);
  return html`
    <dialog ref=${element} class=${classes("dialog", kind)} aria-labelledby=${id}
      onCancel=${(event) => { event.preventDefault(); onClose(); }}
      onPointerDown=${(event) => event.target === element.current && outside(event, element.current) && onClose()}>
      <div class="dialog-head">
        <h2 id=${id}>${title}</h2>
        <${Button} class="push" kind="quiet" icon="close" label="Close" onClick=${onClose} />
      </div>
      <div class="dialog-body"><${Boundary}>${children}<//></div>
      ${foot && html`<div class="dialog-foot">${foot}</div>`}
    </dialog>`;
}

/** Something of its own at the side, wide enough to read. */
export const Drawer = (props) => html`<${Dialog} kind="drawer" ...${props} />`;

function outside(event, element) {
  const { left, right, top, bottom } = element.getBoundingClientRect();
  return event.clientX < left || event.clientX > right || event.clientY < top || event.clientY > bottom;
}
