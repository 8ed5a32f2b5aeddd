// What is to stay in this browser and may be large: IndexedDB, one store a table.
const VERSION = 3;
const TABLES = ["votes", "views", "runs"]; // a further one wants a higher version
let opened = null;

function open() {
  opened ??= new Promise((resolve, reject) => {
    const asking = indexedDB.open("heedful", VERSION);
    asking.onupgradeneeded = () => {
      for (const table of TABLES) {
        if (!asking.result.objectStoreNames.contains(table)) asking.result.createObjectStore(table, { keyPath: "id" });
      }
    };
    asking.onsuccess = () => {
      asking.result.onversionchange = () => asking.result.close(); // a newer page's tab waits for it
      resolve(asking.result);
    };
    asking.onerror = () => reject(asking.error);
  });
  return opened;
}

/** What `ask` asks of a table; resolves once it is written. */
async function within(table, mode, ask) {
  const transaction = (await open()).transaction(table, mode);
  const asked = ask(transaction.objectStore(table));
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(asked.result);
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
}

export const put = (table, row) => within(table, "readwrite", (rows) => rows.put(row));
export const remove = (table, id) => within(table, "readwrite", (rows) => rows.delete(id));
export const empty = (table) => within(table, "readwrite", (rows) => rows.clear());
export const all = (table) => within(table, "readonly", (rows) => rows.getAll());
