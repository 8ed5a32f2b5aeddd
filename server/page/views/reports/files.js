// How an evaluation's files come here: chosen, dropped, or out of the server's folder of reports.
import { call, send } from "../../core/api.js";
import { whenOther } from "../../core/server.js";
import { store } from "../../core/store.js";
import { FILES, read } from "./evaluation.js";

/** The evaluation that is open, or null. */
export const opened = store(null);
whenOther(() => opened.get()?.source === "server" && opened.set(null));
const LARGEST = 200 * 2 ** 20; // bytes of one evaluation that a tab goes through

/** Files of a folder (or of several names) as `read` takes them. Raises an Error that says what is wrong with them. */
export async function take(files) {
  const known = files.filter(({ name }) => FILES.includes(name));
  if (!known.length) {
    const html = files.some(({ name }) => /\.html?$/i.test(name));
    throw new Error(html
      ? "This is the report's page. Here its records are opened: choose the folder that it was made from."
      : `None of these is an evaluation's: ${FILES.join(", ")} are.`);
  }
  const twice = known.find(({ name }, i) => known.findIndex((each) => each.name === name) !== i);
  if (twice) throw new Error(`There are several files ${twice.name}: choose one evaluation's folder.`);
  if (known.reduce((sum, { size }) => sum + size, 0) > LARGEST) throw new Error("These records are larger than 200 MiB: take a part of them.");
  const texts = await Promise.all(known.map(async (file) => [file.name, await file.text()]));
  const folder = known[0].webkitRelativePath?.split("/").at(-2);
  opened.set({ ...read(folder || "Opened from files", Object.fromEntries(texts)), source: "files" });
}

/** All files of what was dropped, those of folders too, one level deep. */
export async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files];
  const files = await Promise.all(entries.map((entry) => (entry.isDirectory ? inside(entry) : file(entry))));
  return files.flat();
}

const file = (entry) => new Promise((resolve, reject) => entry.file((found) => resolve([found]), reject));

async function inside(folder) {
  const reader = folder.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) break;
    found.push(...some.filter(({ isFile }) => isFile));
  }
  return (await Promise.all(found.map(file))).flat();
}

/** What the server has: `{configured, data}`. */
export const listed = (signal) => call("v1/alignment/reports", { signal });

export async function takeFromServer({ name, files }, signal) {
  const wanted = files.filter((each) => FILES.includes(each.name));
  const texts = await Promise.all(wanted.map(async (each) => {
    const response = await send(`v1/alignment/reports/${encodeURIComponent(name)}/${each.name}`, { signal });
    return [each.name, await response.text()];
  }));
  opened.set({ ...read(name, Object.fromEntries(texts)), source: "server" });
}
