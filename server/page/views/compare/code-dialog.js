// A request to take away: as curl, as Python, as it is.
import { html, useState } from "../../core/html.js";
import { server } from "../../core/server.js";
import { useStore } from "../../core/store.js";
import { Code } from "../../ui/controls.js";
import { Dialog } from "../../ui/dialog.js";
import { Tabs } from "../../ui/tabs.js";
import { asCurl, asPython } from "./request.js";

export function CodeDialog({ request, onClose }) {
  const [tab, setTab] = useState("curl");
  const keys = useStore(server, ({ who }) => who?.keys_wanted);
  const text = { curl: asCurl, python: asPython, json: (body) => JSON.stringify(body, null, 2) }[tab](request, { keys });
  return html`
    <${Dialog} kind="wide" title="This request" onClose=${onClose}>
      <${Tabs} label="Written as" open=${tab} onOpen=${setTab} tabs=${[["curl", "curl"], ["python", "Python"], ["json", "JSON"]]}>
        <div class="stack">
          <${Code} text=${text} label=${tab} />
          ${keys && tab !== "json" && html`<p class="soft small">It takes the key from the environment variable HEEDFUL_API_KEY.</p>`}
        </div>
      <//>
    <//>`;
}
