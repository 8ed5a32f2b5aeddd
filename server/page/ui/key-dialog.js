// The question for a key.
import { html, useState } from "../core/html.js";
import { forgetTab, key, question } from "../core/key.js";
import { useStore } from "../core/store.js";
import { Button, Input } from "./controls.js";
import { Dialog } from "./dialog.js";
import { Notice } from "./view.js";

export function KeyDialog() {
  const open = useStore(question);
  const [typed, setTyped] = useState("");
  if (!open) return null;
  const answer = (given) => {
    setTyped("");
    open.answer(given);
  };
  const ready = /^[\x21-\x7e]+$/.test(typed.trim());
  return html`
    <${Dialog} title=${open.message ? "This server wants a key" : "Another key"} onClose=${() => answer(null)} foot=${html`
      ${key.get() !== null && html`<${Button} kind="quiet" icon="trash" onClick=${forgetTab}>Forget this one<//><span class="push" />`}
      <${Button} kind="quiet" onClick=${() => answer(null)}>Not now<//>
      <${Button} kind="primary" disabled=${!ready} onClick=${() => answer(typed.trim())}>Use it<//>`}>
      <form class="stack" onSubmit=${(event) => { event.preventDefault(); if (ready) answer(typed.trim()); }}>
        ${open.message && key.get() !== null && html`<${Notice} kind="bad" alert>${open.message}<//>`}
        <${Input} label="Key" type="password" autocomplete="off" autofocus spellcheck=${false} value=${typed} onValue=${setTyped}
          hint="It stays in this tab, until the tab is closed." />
      </form>
    <//>`;
}
