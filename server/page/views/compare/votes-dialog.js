// What has been voted, and the way out of this browser.
import { html, useEffect, useState } from "../../core/html.js";
import { count, plural } from "../../core/format.js";
import { useStore } from "../../core/store.js";
import { save, zip } from "../../core/zip.js";
import { Button, Input } from "../../ui/controls.js";
import { Dialog } from "../../ui/dialog.js";
import { Empty, Notice } from "../../ui/view.js";
import { folders, forgetAll, readVotes, trouble, voter, votes } from "./votes.js";

export function VotesButton() {
  const all = useStore(votes);
  const [open, setOpen] = useState(false);
  useEffect(() => {
    if (all === null) readVotes();
  }, []);
  return html`
    <${Button} small kind="quiet" icon="check" onClick=${() => setOpen(true)}>Votes${all?.length ? ` (${count(all.length)})` : ""}<//>
    ${open && html`<${VotesDialog} onClose=${() => setOpen(false)} />`}`;
}

function VotesDialog({ onClose }) {
  const all = useStore(votes) ?? [];
  const who = useStore(voter);
  const wrong = useStore(trouble);
  const [sure, setSure] = useState(false);
  const foot = html`
    ${sure
      ? html`<${Button} kind="danger" icon="trash" onClick=${() => { forgetAll(); setSure(false); }}>Forget ${plural(all.length, "vote")}<//>
        <${Button} kind="quiet" onClick=${() => setSure(false)}>Keep them<//>`
      : html`<${Button} kind="quiet" icon="trash" disabled=${!all.length} onClick=${() => setSure(true)}>Forget all<//>`}
    <${Button} kind="primary" icon="download" disabled=${!all.length} onClick=${() => save(zip(folders(all)), "votes.zip")}>Export<//>`;
  return html`
    <${Dialog} title="Votes" onClose=${onClose} foot=${foot}>
      <div class="stack">
        ${wrong && html`<${Notice} kind="bad">${wrong}<//>`}
        ${all.length
          ? html`<${Tally} votes=${all} />`
          : html`<${Empty} title="No votes yet" icon="check"><p>Switch on Blind, ask, and say which answer is better. Votes stay in this browser.</p><//>`}
        <${Input} label="Your name, for new votes" autocomplete="off" value=${who} onValue=${(name) => voter.set(name)} hint="The export calls you “human: NAME”. It may stay empty." />
        <p class="soft small">The export is a zip with an evaluation's folders: <code>heedful report votes-1</code> shows the ratings,
          <code>heedful eval judge votes-1 --judge-model …</code> lets a model judge the same answers, and then how far you two agree.</p>
      </div>
    <//>`;
}

function Tally({ votes: all }) {
  const pairs = new Map();
  for (const { answers, better } of all) {
    answers.forEach((answer, i) => {
      const name = `${answer.model} · ${answer.alignment}`;
      const row = pairs.get(name) ?? { won: 0, alike: 0, lost: 0 };
      row[better === null ? "alike" : better === i ? "won" : "lost"]++;
      pairs.set(name, row);
    });
  }
  return html`
    <div class="scroll-x"><table class="table">
      <thead><tr><th scope="col">Answer of</th><th scope="col" class="num">better</th><th scope="col" class="num">alike</th><th scope="col" class="num">worse</th></tr></thead>
      <tbody>${[...pairs].map(([name, { won, alike, lost }]) => html`
        <tr key=${name}><th scope="row">${name}</th><td class="num">${won}</td><td class="num">${alike}</td><td class="num">${lost}</td></tr>`)}</tbody>
    </table></div>`;
}
