// The server's figures every two seconds while somebody looks: scrapes, and what two of them tell.
import { send } from "../../core/api.js";
import { whenOther } from "../../core/server.js";
import { store } from "../../core/store.js";
import { buckets, grown, parse, quantile, sum, valuesOf } from "./prometheus.js";

const EVERY = 2000;
const KEPT = 150; // scrapes: five minutes
const RECENT = 15; // scrapes that a quantile is of: half a minute

/** `state`: "loading", "ready" or "failed" (then `error`); `points`: one for each two scrapes; `now`: the last. */
const NOTHING = { state: "loading", error: null, points: [], now: null };
export const watched = store(NOTHING);
const scrapes = [];
whenOther(() => {
  scrapes.length = 0;
  watched.set(NOTHING);
});
let timer = null;
let turn = null; // the one under way; another than it was where somebody has begun anew, or has left
let asking = null;

/** Asks now, and every two seconds from now on; not while the tab is hidden, nor after a key was wanted and not given. */
export function look() {
  clearTimeout(timer);
  if (document.hidden) return;
  const mine = (turn = {});
  ask().then(() => {
    if (turn === mine && watched.get().error?.status !== 401) timer = setTimeout(look, EVERY);
  });
}

/** Begins to look; returns what ends it. */
export function watch() {
  document.addEventListener("visibilitychange", look);
  look();
  return () => {
    document.removeEventListener("visibilitychange", look);
    clearTimeout(timer);
    turn = null;
    asking?.abort();
  };
}

async function ask() {
  asking?.abort();
  const control = (asking = new AbortController());
  try {
    const [figures, ready] = await Promise.all([
      send("metrics", { signal: control.signal }).then((response) => response.text()),
      readiness(control.signal),
    ]);
    take({ at: performance.now(), figures: parse(figures), ready });
  } catch (error) {
    if (error.name !== "AbortError") watched.patch({ state: "failed", error });
  }
}

/** /health/ready says who is down, whatever its status. */
async function readiness(signal) {
  const response = await send("health/ready", { signal }).catch((error) => {
    if (error.name === "AbortError" || error.code === "unreachable") throw error;
    return null;
  });
  return response ? { reasons: [], ...(await response.json()) } : { reasons: ["This server says that requests should go elsewhere."], upstreams: null };
}

export function take(scrape) {
  // After a pause two scrapes tell of the whole of it and not of now: lines begin anew.
  if (scrapes.length && scrape.at - scrapes.at(-1).at > 4 * EVERY) scrapes.length = 0;
  const before = scrapes.at(-1);
  scrapes.push(scrape);
  if (scrapes.length > KEPT) scrapes.shift();
  const points = before ? [...watched.get().points, point(before, scrape)].slice(-KEPT) : [];
  watched.set({ state: "ready", error: null, points, now: told(scrape) });
}

const asked = ({ model }) => model !== "none"; // requests that a model was asked for

function point(before, after) {
  const seconds = (after.at - before.at) / 1000;
  const rate = (name, fits = all) => (grown(before.figures, after.figures, name, fits) ?? 0) / seconds;
  return {
    rate: rate("heedful_requests_total", asked),
    errors: rate("heedful_errors_total"),
    refusals: rate("heedful_refusals_total"),
    tokens: rate("heedful_tokens_total", ({ kind }) => kind === "completion"),
    hidden: rate("heedful_hidden_tokens_total", ({ kind }) => kind === "completion"),
    running: sum(after.figures, "heedful_requests_running") ?? 0,
    queue: sum(after.figures, "heedful_queue_length") ?? 0,
    first: quantile(0.5, buckets(scrapes.at(-RECENT)?.figures ?? before.figures, after.figures, "heedful_first_byte_seconds", asked)),
  };
}

const all = () => true;
const only = (label, value) => (labels) => labels[label] === value;

/** What the tables show of one scrape, against the one half a minute before it. */
function told({ figures, ready }) {
  const old = scrapes.length > 1 ? scrapes.at(Math.max(-RECENT - 1, -scrapes.length)) : null;
  const seconds = old ? (scrapes.at(-1).at - old.at) / 1000 : null;
  const counted = valuesOf(figures, "heedful_request_seconds_count", "alignment");
  const rows = counted.filter((name) => name !== "none").map((name) => {
    const fits = (labels) => labels.alignment === name && asked(labels);
    const recent = (metric) => buckets(old?.figures ?? null, figures, metric, fits);
    const whole = (metric) => buckets(null, figures, metric, fits);
    // Where nothing came lately, all since the start.
    const mid = (share, metric) => quantile(share, recent(metric)) ?? quantile(share, whole(metric));
    return {
      name,
      rate: old ? (grown(old.figures, figures, "heedful_requests_total", fits) ?? 0) / seconds : null,
      total: sum(figures, "heedful_requests_total", fits) ?? 0,
      failed: sum(figures, "heedful_requests_total", (labels) => fits(labels) && Number(labels.status) >= 400) ?? 0,
      gone: sum(figures, "heedful_requests_total", (labels) => fits(labels) && labels.status === "0") ?? 0,
      first: mid(0.5, "heedful_first_byte_seconds"),
      first90: mid(0.9, "heedful_first_byte_seconds"),
      whole: mid(0.5, "heedful_request_seconds"),
      tokens: sum(figures, "heedful_tokens_total", (labels) => fits(labels) && labels.kind === "completion"),
      hidden: sum(figures, "heedful_hidden_tokens_total", (labels) => fits(labels) && labels.kind === "completion"),
      calls: sum(figures, "heedful_model_calls_total", fits),
    };
  });
  const listed = (metric, label) => valuesOf(figures, metric, label).map((value) => [value, sum(figures, metric, only(label, value))]).filter(([, n]) => n > 0).sort(([, a], [, b]) => b - a);
  return {
    rows: rows.sort((a, b) => b.total - a.total),
    counted: figures.has("heedful_requests_running"),
    running: sum(figures, "heedful_requests_running"),
    queue: sum(figures, "heedful_queue_length"),
    waited: quantile(0.9, buckets(null, figures, "heedful_queue_seconds")),
    refusals: listed("heedful_refusals_total", "reason"),
    errors: listed("heedful_errors_total", "error"),
    lost: ["records", "access_log", "spans"].map((what) => [what, sum(figures, `heedful_${what}_dropped_total`) ?? 0]).filter(([, n]) => n > 0),
    engines: valuesOf(figures, "heedful_engine_up", "model").map((model) => [model, sum(figures, "heedful_engine_up", only("model", model)) > 0]),
    upstreams: valuesOf(figures, "heedful_upstream_up", "upstream").map((upstream) => ({
      name: upstream,
      up: sum(figures, "heedful_upstream_up", only("upstream", upstream)) > 0,
      failures: (figures.get("heedful_upstream_failures") ?? []).filter(({ labels, value }) => labels.upstream === upstream && value > 0).map(({ labels, value }) => [labels.error, value]),
    })),
    ready,
  };
}
