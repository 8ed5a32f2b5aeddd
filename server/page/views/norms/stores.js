// All stores that this key may see.
import { html, useState } from "../../core/html.js";
import { count, plural } from "../../core/format.js";
import { go, link } from "../../core/router.js";
import { server } from "../../core/server.js";
import { useStore } from "../../core/store.js";
import { Button, Input } from "../../ui/controls.js";
import { Dialog } from "../../ui/dialog.js";
import { Icon } from "../../ui/icons.js";
import { Empty, Failed, Loading, View } from "../../ui/view.js";
import { makeStore, readStores, useLoad } from "./data.js";

export function StoreList() {
  const { value, error, again } = useLoad(readStores, []);
  const [making, setMaking] = useState(false);
  const actions = html`<${Button} icon="plus" onClick=${() => setMaking(true)}>New store<//>`;
  return html`
    <${View} title="Norms" about="What answers heed, and the examples they follow" actions=${value && actions}>
      ${error && (error.code === "no_stores" ? html`<${Empty} title="This server has no stores" icon="book"><p>${error.message}</p><//>` : html`<${Failed} error=${error} onRetry=${again} />`)}
      ${!value && !error && html`<${Loading} what="Reading the stores" />`}
      ${value && !value.data.length && html`
        <${Empty} title="No stores yet" icon="book"><p>A store holds norms, or questions with good answers. Answers heed it from the moment that something is in it.</p>
          <${Button} kind="primary" icon="plus" onClick=${() => setMaking(true)}>New store<//><//>`}
      ${value && html`
        <ul class="norms-stores">
          ${value.data.map((each) => html`<li key=${each.name}><${StoreCard} store=${each} /></li>`)}
          ${value.shared.map((name) => html`<li key=${name}><${SharedCard} name=${name} /></li>`)}
        </ul>
        <${Rights} />`}
    <//>
    ${making && html`<${NewStore} onClose=${() => setMaking(false)} />`}`;
}

function StoreCard({ store: { name, kinds, mandatory, scopes, tags, may } }) {
  const parts = [
    (kinds.norm > 0 || !kinds.demo) && plural(kinds.norm, "norm"),
    kinds.demo > 0 && plural(kinds.demo, "demonstration"),
    mandatory > 0 && `${count(mandatory)} mandatory`,
  ].filter(Boolean);
  return html`
    <a class="norms-store card" href=${link("norms", [name])}>
      <span class="row"><${Icon} name="book" /><strong class="norms-name">${name}</strong>
        <span class="push chip">${may.write ? "you may write" : "read only"}</span></span>
      <span class="soft">${parts.join(" · ")}</span>
      <span class="faint small">${scopes.length ? `${plural(scopes.length, "scope")}: ${few(scopes)}` : "holds everywhere"}${tags.length ? ` · ${plural(tags.length, "tag")}` : ""}</span>
    </a>`;
}

const few = (names) => names.slice(0, 4).join(", ") + (names.length > 4 ? " …" : "");

const SharedCard = ({ name }) => html`
  <div class="norms-store card"><span class="row"><${Icon} name="link" /><strong class="norms-name">${name}</strong><span class="push chip">shared</span></span>
    <span class="soft small">Your answers may heed it. What is in it is kept by who runs this server.</span></div>`;

function Rights() {
  const { who } = useStore(server);
  if (!who.keys_wanted) return html`<p class="faint small norms-foot">This server wants no keys: everybody may write these stores.</p>`;
  return html`<p class="faint small norms-foot">Authors write the stores that their key names (${who.stores ? `yours: ${who.stores.join(", ")}` : "yours names none: all of its tenant"}),
    admins all of their tenant. Only admins erase, and drop a store.</p>`;
}

function NewStore({ onClose }) {
  const [name, setName] = useState("");
  const [error, setError] = useState(null);
  const fits = /^[a-z0-9][a-z0-9_-]{0,63}$/.test(name);
  const make = () => makeStore(name).then(() => go("norms", [name]), setError);
  return html`
    <${Dialog} title="New store" onClose=${onClose} foot=${html`
      <${Button} kind="quiet" onClick=${onClose}>Cancel<//><${Button} kind="primary" disabled=${!fits} onClick=${make}>Make it<//>`}>
      <form class="stack" onSubmit=${(event) => { event.preventDefault(); if (fits) make(); }}>
        <${Input} label="Name" autofocus autocomplete="off" spellcheck=${false} value=${name} onValue=${setName}
          hint="Lower-case letters, digits, - and _" wrong=${name && !fits ? "Lower-case letters, digits, - and _, 64 at most" : undefined} />
        ${error && html`<${Failed} error=${error} />`}
      </form>
    <//>`;
}
