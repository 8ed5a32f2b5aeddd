// A run outlives a reload of its page: it is kept in this browser for the tab that made it, for a day at most.
import { all, put, remove } from "../../core/database.js";
import { identity, server } from "../../core/server.js";
import { kept, session, store } from "../../core/store.js";

const DAY = 24 * 3_600_000;
const tab = kept("tab", null, session);
/** Why it can't be kept, or null. */
export const trouble = store(null);

const mine = () => {
  if (tab.get() === null) tab.set(Date.now().toString(36) + Math.random().toString(36).slice(2));
  return tab.get();
};
const told = (error) => trouble.set(`This run can't be kept in this browser: ${error?.message ?? error}. Export it before you leave the page.`);

/** `parts`: what a run is made of, as the browser's database takes it. */
export const remember = (parts) =>
  put("runs", { ...parts, id: mine(), at: Date.now(), who: identity(server.get().who) }).then(() => trouble.set(null), told);

/** What this tab has kept under a key as good as this one, or null; what is older than a day goes. */
export async function recall() {
  const rows = await all("runs");
  for (const { id, at } of rows) if (at < Date.now() - DAY) remove("runs", id).catch(told);
  return rows.find(({ id, at, who }) => id === tab.get() && at >= Date.now() - DAY && who === identity(server.get().who)) ?? null;
}

export const forget = () => (tab.get() === null ? Promise.resolve() : remove("runs", mine())).catch(told);
