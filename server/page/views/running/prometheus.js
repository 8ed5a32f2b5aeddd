// Prometheus' text format, version 0.0.4, as far as a page needs it: samples, and what is reckoned from them.

/**
 * The samples of a scrape, by name: `[{labels, value}]`. Comments, blank lines, timestamps and what is no sample are
 * passed over; a value may be NaN, +Inf or -Inf.
 */
export function parse(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    const sample = read(line.trim());
    if (!sample) continue;
    if (!found.has(sample.name)) found.set(sample.name, []);
    found.get(sample.name).push({ labels: sample.labels, value: sample.value });
  }
  return found;
}

const NAME = /^[a-zA-Z_:][a-zA-Z0-9_:]*/;
const LABEL = /^\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(,|(?=\}))/;
const ESCAPED = { n: "\n", '"': '"', "\\": "\\" };

function read(line) {
  if (!line || line.startsWith("#")) return null;
  const [name] = line.match(NAME) ?? [];
  if (!name) return null;
  let rest = line.slice(name.length).trimStart();
  const labels = {};
  if (rest.startsWith("{")) {
    rest = rest.slice(1);
    for (let found; (found = rest.match(LABEL)); rest = rest.slice(found[0].length)) {
      labels[found[1]] = found[2].replace(/\\(.)/g, (_, sign) => ESCAPED[sign] ?? `\\${sign}`);
    }
    if (!rest.trimStart().startsWith("}")) return null;
    rest = rest.trimStart().slice(1);
  }
  const [written] = rest.trim().split(/\s+/);
  const value = number(written);
  return value === null ? null : { name, labels, value };
}

function number(text) {
  if (/^[+-]?inf(inity)?$/i.test(text)) return text.startsWith("-") ? -Infinity : Infinity;
  if (/^nan$/i.test(text)) return NaN;
  return text !== "" && Number.isFinite(Number(text)) ? Number(text) : null;
}

const all = () => true;

/** The sum of a metric's samples that fit, or null where there is none. */
export function sum(scrape, name, fits = all) {
  const samples = (scrape.get(name) ?? []).filter(({ labels }) => fits(labels));
  return samples.length ? samples.reduce((total, { value }) => total + value, 0) : null;
}

/** The values of a label, in the order of their appearance. */
export const valuesOf = (scrape, name, label) => [...new Set((scrape.get(name) ?? []).map(({ labels }) => labels[label]).filter((value) => value !== undefined))];

/** How much a counter has grown between two scrapes; a server that was started anew counts from zero. */
export function grown(before, after, name, fits = all) {
  const now = sum(after, name, fits);
  if (now === null) return null;
  const was = sum(before, name, fits) ?? 0;
  return now >= was ? now - was : now;
}

/** What a histogram has taken in between two scrapes: `[[upper bound, count up to it]]`, ascending; `before` null: since the start. */
export function buckets(before, after, name, fits = all) {
  const at = (scrape) => {
    const counts = new Map();
    for (const { labels, value } of scrape?.get(`${name}_bucket`) ?? []) {
      const bound = number(labels.le ?? "");
      if (bound !== null && fits(labels)) counts.set(bound, (counts.get(bound) ?? 0) + value);
    }
    return counts;
  };
  const was = at(before);
  const now = [...at(after)].sort(([a], [b]) => a - b);
  const anew = now.some(([bound, count]) => count < (was.get(bound) ?? 0));
  return now.map(([bound, count]) => [bound, anew ? count : count - (was.get(bound) ?? 0)]);
}

/**
 * A quantile of a histogram, as Prometheus' histogram_quantile has it: linear within a bucket, the last finite bound
 * where it lies beyond that. Null where nothing was taken in.
 */
export function quantile(share, histogram) {
  const total = histogram.at(-1)?.[1] ?? 0;
  if (!(total > 0) || histogram.at(-1)[0] !== Infinity) return null;
  const rank = share * total;
  const i = histogram.findIndex(([, count]) => count >= rank);
  if (i === histogram.length - 1) return i > 0 ? histogram[i - 1][0] : null;
  const [upper, count] = histogram[i];
  const [lower, under] = i > 0 ? histogram[i - 1] : [Math.min(0, upper), 0];
  return count === under ? upper : lower + ((upper - lower) * (rank - under)) / (count - under);
}
