// A set-up gets a name, and leaves as a link or a file.
import { html, useEffect, useState } from "../../core/html.js";
import { useStore } from "../../core/store.js";
import { save } from "../../core/zip.js";
import { Button, Input, copy } from "../../ui/controls.js";
import { Dialog } from "../../ui/dialog.js";
import { toast } from "../../ui/toast.js";
import { Notice } from "../../ui/view.js";
import { LONGEST_LINK, address, asFile, draft, keep, readViews, trouble, views } from "./named.js";

export function ViewButtons({ view }) {
  const [open, setOpen] = useState(false);
  return html`
    <${Button} small kind="quiet" icon="book" onClick=${() => setOpen(true)}>Save or share<//>
    ${open && html`<${ViewDialog} view=${view} onClose=${() => setOpen(false)} />`}`;
}

function ViewDialog({ view, onClose }) {
  const all = useStore(views);
  const wrong = useStore(trouble);
  const [name, setName] = useState(view.name);
  const there = all?.some(({ id }) => id === name.trim());
  const made = { ...view, name: name.trim() };
  useEffect(() => {
    if (all === null) readViews();
  }, []);
  const shared = async () => {
    const link = await address(made);
    if (link.length > LONGEST_LINK) toast("These questions are too long for a link: share a file.");
    else copy(link, "The link is copied: questions, columns and filters, no key and no answers");
  };
  const kept = () => {
    draft.patch({ name: made.name });
    keep(made);
    toast(`“${made.name}” is kept in this browser`);
    onClose();
  };
  return html`
    <${Dialog} title="Save or share this view" onClose=${onClose} foot=${html`
      <${Button} icon="link" onClick=${shared}>Copy a link<//>
      <${Button} icon="download" onClick=${() => save(asFile(made), `${made.name || "view"}.json`)}>As a file<//>
      <${Button} kind="primary" disabled=${!made.name} onClick=${kept}>${there ? "Save over it" : "Save"}<//>`}>
      <form class="stack" onSubmit=${(event) => { event.preventDefault(); if (made.name) kept(); }}>
        ${wrong && html`<${Notice} kind="bad">${wrong}<//>`}
        <${Input} label="Name" autocomplete="off" autofocus maxlength="200" value=${name} onValue=${setName}
          hint=${there ? "There is a view of this name: it will be replaced." : "Kept in this browser: the questions, both columns, the judge and the filters."} />
        <p class="soft small">A link or a file holds the same, and neither a key nor an answer. Opening one asks a model nothing.</p>
      </form>
    <//>`;
}
