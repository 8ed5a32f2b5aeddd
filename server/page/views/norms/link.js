// Where an item of a trace is to be read and mended.
import { link } from "../../core/router.js";

/**
 * The address of an item as a trace's entry names it: `item` is `{id, store}`, its id led by its store where several
 * were looked through as one; `store` the step's. Null for a norm that the request brought itself.
 */
export function itemLink(item, store) {
  if (item.extra || !item.id) return null;
  return item.store ? link("norms", [item.store, item.id.slice(item.store.length + 1)]) : link("norms", [store, item.id]);
}
