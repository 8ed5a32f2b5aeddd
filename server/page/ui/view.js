// A view's frame, and its three states that are not its content: loading, empty, failed.
import { classes, html } from "../core/html.js";
import { Button } from "./controls.js";
import { Icon } from "./icons.js";

/** `actions` stand at the right of the title. */
export const View = ({ title, about, actions, children }) => html`
  <div class="view-head">
    <h1 tabindex="-1">${title}</h1>${about && html`<p class="small">${about}</p>`}
    ${actions && html`<div class="view-actions">${actions}</div>`}
  </div>
  ${children}`;

/** `kind`: "bad", "warn", "good", or none. Only what comes up by itself is an alert. */
export const Notice = ({ kind, alert, children }) => html`
  <div class=${classes("notice", kind)} role=${alert ? "alert" : undefined}>
    <${Icon} name=${{ bad: "warn", warn: "warn", good: "check" }[kind] ?? "info"} /><div>${children}</div>
  </div>`;

/** An ApiError, in the server's words; `onRetry` where trying again may help. */
export const Failed = ({ error, onRetry }) => html`
  <${Notice} kind="bad" alert>
    ${error.message}
    ${error.retryAfter && html`<div class="soft small">It may be tried again in ${error.retryAfter} s.</div>`}
    ${onRetry && html`<div class="row"><${Button} small icon="retry" onClick=${onRetry}>Try again<//></div>`}
  <//>`;

export const Loading = ({ what = "Loading" }) => html`
  <div class="loading" role="status"><span class="spinner" aria-hidden="true" />${what} …</div>`;

export const Empty = ({ title, icon = "info", children }) => html`
  <div class="empty"><${Icon} name=${icon} size=${24} /><h2>${title}</h2>${children}</div>`;
