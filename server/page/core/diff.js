// What differs between two texts, by words: Myers' shortest edit script (1986), forwards, with its traces kept.
const WORDS = /\s+|[\p{L}\p{N}_]+(?:['’][\p{L}]+)*|[^\s]/gu;
const MOST = 800; // edits that are looked for; beyond, two texts have nothing to do with each other

/**
 * `[kind, text]` in order, kind being "same", "removed" (of `from`) or "added" (of `to`). What is "same" or "added" is
 * `to`, what is "same" or "removed" is `from`.
 */
export function differences(from, to) {
  const a = from.match(WORDS) ?? [];
  const b = to.match(WORDS) ?? [];
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  let end = 0;
  while (end < Math.min(a.length, b.length) - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end++;
  const middle = edits(a.slice(start, a.length - end), b.slice(start, b.length - end));
  const same = (words) => words.map((word) => ["same", word]);
  return joined([...same(a.slice(0, start)), ...middle, ...same(a.slice(a.length - end))]);
}

function edits(a, b) {
  const most = Math.min(a.length + b.length, MOST);
  const zero = most + 1;
  const reach = new Int32Array(2 * most + 3); // the furthest word of `a` on each diagonal
  const traces = [];
  for (let d = 0; d <= most; d++) {
    traces.push(reach.slice(zero - d - 1, zero + d + 2)); // as it was before this edit: diagonals -d-1 to d+1
    for (let k = -d; k <= d; k += 2) {
      let x = goesDown(k, d, (at) => reach[zero + at]) ? reach[zero + k + 1] : reach[zero + k - 1] + 1;
      while (x < a.length && x - k < b.length && a[x] === b[x - k]) x++;
      reach[zero + k] = x;
      if (x >= a.length && x - k >= b.length) return walked(a, b, traces);
    }
  }
  return [...a.map((word) => ["removed", word]), ...b.map((word) => ["added", word])];
}

/** Whether the furthest path of `d` edits to diagonal `k` ends with a word of `b` put in. */
const goesDown = (k, d, reach) => k === -d || (k !== d && reach(k - 1) < reach(k + 1));

/** Back along the traces, from the end of both. */
function walked(a, b, traces) {
  const found = [];
  let x = a.length;
  let y = b.length;
  for (let d = traces.length - 1; d >= 0; d--) {
    const reach = (k) => traces[d][k + d + 1];
    const k = x - y;
    const down = goesDown(k, d, reach);
    const fromX = d === 0 ? 0 : reach(down ? k + 1 : k - 1);
    const fromY = d === 0 ? 0 : fromX - (down ? k + 1 : k - 1);
    while (x > fromX && y > fromY) {
      found.push(["same", a[--x]]);
      y--;
    }
    if (d === 0) break;
    if (down) found.push(["added", b[--y]]);
    else found.push(["removed", a[--x]]);
  }
  return found.reverse();
}

/**
 * Runs of a kind as one, what is removed before what is added. Where only space is the same between two changes, they are
 * one change: phrases stay whole.
 */
function joined(pieces) {
  const runs = [];
  let removed = "";
  let added = "";
  const push = (kind, text) => {
    if (!text) return;
    if (runs.at(-1)?.[0] === kind) runs.at(-1)[1] += text;
    else runs.push([kind, text]);
  };
  const close = () => {
    const before = commonSpace(removed.match(/^\s*/)[0], added.match(/^\s*/)[0]);
    [removed, added] = [removed.slice(before.length), added.slice(before.length)];
    const after = commonSpace(removed.match(/\s*$/)[0], added.match(/\s*$/)[0]);
    push("same", before);
    push("removed", removed.slice(0, removed.length - after.length));
    push("added", added.slice(0, added.length - after.length));
    push("same", after);
    removed = added = "";
  };
  pieces.forEach(([kind, text], i) => {
    const between = kind === "same" && !text.trim() && (removed || added) && (pieces[i + 1]?.[0] ?? "same") !== "same";
    if (kind === "removed" || between) removed += text;
    if (kind === "added" || between) added += text;
    if (kind !== "same" || between) return;
    close();
    push("same", text);
  });
  close();
  return runs;
}

/** The space that both changes begin or end with, where it is all the space that is there; else none. */
const commonSpace = (one, other) => (one === other ? one : "");
