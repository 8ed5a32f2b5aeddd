// How sure a few figures are, as benchmarks/stats.py reckons them.
const Z = 1.959964; // of a 95% interval
const Z_POWER = 0.841621; // of a power of 80%

/** A share's interval (Wilson 1927). */
export function wilson(right, total) {
  if (!total) return [0, 1];
  const share = right / total;
  const z2 = Z * Z;
  const middle = (share + z2 / (2 * total)) / (1 + z2 / total);
  const half = (Z * Math.sqrt((share * (1 - share)) / total + z2 / (4 * total * total))) / (1 + z2 / total);
  return [Math.max(0, middle - half), Math.min(1, middle + half)];
}

/** The exact test of signs: how often chance alone parts so many differences at least so unevenly. */
export function signTest(better, worse) {
  const n = better + worse;
  if (!n) return 1;
  let term = Math.exp(-n * Math.LN2);
  let tail = 0;
  for (let k = 0; k <= Math.min(better, worse); k++) {
    tail += term;
    term *= (n - k) / (k + 1);
  }
  return Math.min(1, 2 * tail);
}

/**
 * Items that a paired comparison of shares needs, to find a `gap` at 5% with a power of 80% where a share `differing`
 * of the items goes one way or the other (Connor 1987, Biometrics 43, 207-211).
 */
export function itemsNeeded(gap, differing) {
  const apart = Math.max(differing, gap);
  return Math.ceil((Z * Math.sqrt(apart) + Z_POWER * Math.sqrt(apart - gap * gap)) ** 2 / gap ** 2);
}

export const mean = (values) => (values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null);

export function median(values) {
  if (!values.length) return null;
  const sorted = [...values].sort((a, b) => a - b);
  const at = sorted.length >> 1;
  return sorted.length % 2 ? sorted[at] : (sorted[at - 1] + sorted[at]) / 2;
}
