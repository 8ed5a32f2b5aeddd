// The prompt as the model was given it; what is not the client's own stands apart.
import { html } from "../core/html.js";
import { Empty } from "../ui/view.js";
import { Icon } from "../ui/icons.js";

export function Prompt({ prompt }) {
  if (prompt === undefined) {
    return html`<${Empty} title="The prompt was not kept"><p>A request with <code>"trace": {"prompt": true}</code> is told what the model was given.</p><//>`;
  }
  if (prompt === null) {
    return html`<${Empty} title="No prompt to show"><p>No model was asked, or the prompt holds words of this server's operator.</p><//>`;
  }
  const messages = prompt.messages ?? [{ role: "raw prompt", parts: prompt.parts }];
  const added = messages.some(({ parts, added: whole }) => whole || parts.some((part) => part.added));
  return html`
    <p class="why-legend small soft">
      ${added ? html`<span class="why-key" aria-hidden="true"><${Icon} name="plus" size=${12} /></span>marks what heedful added to the conversation` : "The model was given the conversation as it came."}
    </p>
    <ol class="why-prompt">
      ${messages.map((message, i) => html`<${Message} key=${i} message=${message} />`)}
    </ol>`;
}

function Message({ message: { role, parts, added, name, tool_calls: calls } }) {
  return html`
    <li class="why-message">
      <h3>${role}${name && html` <span class="faint">${name}</span>`}${added && html` <span class="chip accent">added</span>`}</h3>
      ${parts.map((part, i) => html`<${Part} key=${i} part=${part} whole=${added} />`)}
      ${calls?.map((call, i) => html`<pre key=${i} class="why-quote">${call.function?.name}(${call.function?.arguments})</pre>`)}
    </li>`;
}

function Part({ part, whole }) {
  if (part.text === undefined) return html`<p class="faint small">[${part.type ?? "a part that is no text"}]</p>`;
  if (!part.text.trim() && part.added) return null;
  if (!part.added || whole) return html`<p class=${part.added ? "why-part added" : "why-part"}>${part.text.trim() ? part.text : "(nothing)"}</p>`;
  return html`
    <p class="why-part added"><span class="why-key" title="added by heedful"><${Icon} name="plus" size=${12} /><span class="unseen">added: </span></span>${part.text.replace(/^\n+|\n+$/g, "")}</p>`;
}
