// What can't be taken back is asked about first.
import { html, useState } from "../../core/html.js";
import { Button, Input } from "../../ui/controls.js";
import { Dialog } from "../../ui/dialog.js";
import { Failed } from "../../ui/view.js";

/** `act` returns a promise; `word`: what has to be typed first, where that much is at stake. */
export function Sure({ title, does, word, act, onClose, children }) {
  const [typed, setTyped] = useState("");
  const [state, setState] = useState({});
  const ready = !state.busy && (!word || typed.trim() === word);
  const go = () => {
    setState({ busy: true });
    act().then(onClose, (error) => setState({ error }));
  };
  return html`
    <${Dialog} title=${title} onClose=${onClose} foot=${html`
      <${Button} kind="quiet" onClick=${onClose}>Cancel<//>
      <${Button} kind="danger" icon="trash" disabled=${!ready} onClick=${go}>${does}<//>`}>
      <div class="stack">
        ${children}
        ${word && html`<${Input} label=${`Type ${word} to go on`} autocomplete="off" spellcheck=${false} value=${typed} onValue=${setTyped} />`}
        ${state.error && html`<${Failed} error=${state.error} />`}
      </div>
    <//>`;
}
