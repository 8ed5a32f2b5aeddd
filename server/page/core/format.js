// Numbers, times and sizes as people read them.
const whole = new Intl.NumberFormat("en");

export const count = (n) => (n === null || n === undefined ? "–" : whole.format(n));

/** Milliseconds: 87 ms, 1.24 s, 2 min 5 s. */
export function duration(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`;
  return `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`;
}

/** Money: at least two digits that say something. */
export function money(amount, currency) {
  if (amount === null || amount === undefined) return "–";
  const digits = amount === 0 || amount >= 0.01 ? 2 : Math.min(8, 1 - Math.floor(Math.log10(amount)));
  return `${currency} ${amount.toFixed(digits)}`;
}

/** "1 call", "2 calls". */
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

/** A moment: today its time, else date and time. */
export function moment(value) {
  const at = new Date(value);
  if (Number.isNaN(at.getTime())) return String(value);
  const time = at.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  const day = at.toLocaleDateString("en-GB", { day: "numeric", month: "short", year: "numeric" });
  return at.toDateString() === new Date().toDateString() ? time : `${day}, ${time}`;
}
