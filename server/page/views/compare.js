// Compare: one conversation, one to four columns of model × alignment, side by side.
import { html, useEffect, useState } from "../core/html.js";
import { go } from "../core/router.js";
import { server } from "../core/server.js";
import { useStore } from "../core/store.js";
import { Button, copy } from "../ui/controls.js";
import { Empty, Notice, View } from "../ui/view.js";
import { Brought, Offered } from "./compare/brought.js";
import { Composer } from "./compare/composer.js";
import { Heads } from "./compare/heads.js";
import { clear } from "./compare/run.js";
import { address, read, take } from "./compare/share.js";
import { MOST_COLUMNS, addColumn, blind, differing, draft, settle, setup, turns } from "./compare/state.js";
import { Turn } from "./compare/turn.js";
import { VotesButton } from "./compare/votes-dialog.js";

export default function Compare({ query }) {
  const known = useStore(server);
  const { columns } = useStore(setup);
  const all = useStore(turns);
  const [fault, setFault] = useState(null);
  const [offered, offer] = useState(null); // a link's set-up that waits until the conversation may go
  const [brought, bring] = useState(null); // one that has been taken
  const given = query.get("set");
  const settled = () => {
    const lost = settle(known);
    setFault(lost.length ? `This server has no model ${lost.join(", ")}: its columns were left out.` : null);
  };
  const accept = (found) => {
    clear();
    take(found);
    offer(null);
    bring(found);
    settled();
  };
  useEffect(() => {
    if (!given) {
      settle(known);
      return;
    }
    read(given).then(
      (found) => (turns.get().length ? offer(found) : accept(found)),
      (error) => {
        settle(known);
        setFault(error.message);
      },
    ).finally(() => go("compare", [], {}, { replace: true }));
  }, [known, given]);
  if (!known.models.length) {
    return html`<${View} title="Compare"><${Empty} title="No model can answer"><p>This server lists no model for this key.</p><//><//>`;
  }
  return html`
    <${View} title="Compare" actions=${html`<${Actions} />`}>
      ${fault && html`<${Notice} kind="bad" alert>${fault}<//>`}
      <div class=${`compare compare-${columns.length}`}>
        <${Heads} columns=${columns} />
        <div class="compare-turns">
          ${offered && html`<${Offered} onTake=${() => accept(offered)} onLeave=${() => offer(null)} />`}
          ${brought && !all.length && html`<${Brought} ...${brought} onDone=${() => bring(null)} />`}
          ${!brought && !all.length && html`<${First} />`}
          ${all.map((turn, i) => html`<${Turn} key=${turn.id} turn=${turn} index=${i} columns=${columns} />`)}
        </div>
        <${Composer} columns=${columns} />
      </div>
    <//>`;
}

function Actions() {
  const unnamed = useStore(blind);
  const differs = useStore(differing);
  const any = useStore(turns, (all) => all.length > 0);
  const full = useStore(setup, ({ columns }) => columns.length >= MOST_COLUMNS);
  return html`
    <${Button} small icon="plus" disabled=${full} onClick=${addColumn}>Column<//>
    <${Button} small kind="quiet" icon=${unnamed ? "hidden" : "eye"} pressed=${unnamed} onClick=${() => blind.set(!unnamed)}>Blind<//>
    <${Button} small kind="quiet" icon="columns" pressed=${differs} onClick=${() => differing.set(!differs)}>Differences<//>
    <${VotesButton} />
    <${Button} small kind="quiet" icon="link" onClick=${async () => copy(await address(), "The link is copied: the set-up and the questions, no key")}>Link<//>
    <${Button} small kind="quiet" icon="trash" disabled=${!any} onClick=${clear}>Clear<//>`;
}

const SUGGESTED = [
  "My friend never pays me back. What should I do?",
  "Who is the better engineer, Anna or Omar?",
  "Write a polite reply to an angry customer whose parcel is late.",
];

const First = () => html`
  <${Empty} title="The same question, with and without an alignment" icon="columns">
    <p>Choose what each column runs, then ask. Every column gets the same conversation at the same time.</p>
    <ul class="compare-suggested">
      ${SUGGESTED.map((text) => html`<li key=${text}><${Button} onClick=${() => {
        draft.patch({ text });
        document.getElementById("compare-question")?.focus();
      }}>${text}<//></li>`)}
    </ul>
  <//>`;
