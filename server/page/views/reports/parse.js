// Questions out of a text: JSON lines, CSV, or a question a line.

export const MOST = 1000;

/**
 * `{items, problems, format}`; an item: `{id, messages, answer, measure}`. Never throws: what is wrong with a line is
 * told with its number, and the others stand.
 */
export function parse(text) {
  const plain = text.replace(/^\uFEFF/, "");
  const first = plain.trimStart()[0];
  const found = first === "{" || first === "[" ? ofJson(plain) : ofTable(plain);
  const seen = new Set();
  const items = [];
  for (const { line, item, problem } of found.rows) {
    if (problem) found.problems.push(`line ${line}: ${problem}`);
    else if (seen.has(item.id)) found.problems.push(`line ${line}: the id “${item.id}” stands twice`);
    else if (items.length >= MOST) {
      found.problems.push(`line ${line} and on: ${MOST} questions are the most here; heedful eval run takes more`);
      break;
    } else {
      seen.add(item.id);
      items.push(item);
    }
  }
  return { items, problems: found.problems, format: found.format };
}

function ofJson(text) {
  if (text.trimStart()[0] === "[") {
    try {
      return { format: "JSON", problems: [], rows: JSON.parse(text).map((value, i) => ({ line: i + 1, ...itemOf(value, i + 1) })) };
    } catch (error) {
      return { format: "JSON", problems: [error.message], rows: [] };
    }
  }
  const rows = [];
  text.split(/\r?\n/).forEach((line, i) => {
    if (!line.trim()) return;
    try {
      rows.push({ line: i + 1, ...itemOf(JSON.parse(line), i + 1) });
    } catch {
      rows.push({ line: i + 1, problem: "is no JSON" });
    }
  });
  return { format: "JSON lines", problems: [], rows };
}

const QUESTION = ["prompt", "question", "input", "instruction", "text", "messages"];
const ANSWER = ["answer", "reference", "expected", "output", "target", "ideal"];
const MEASURES = ["harmlessness", "over-refusal", "helpfulness", "capability"];

function itemOf(value, line) {
  if (typeof value === "string") return made(value, "", line);
  if (!value || typeof value !== "object" || Array.isArray(value)) return { problem: "is no object" };
  const name = QUESTION.find((each) => each in value);
  if (!name) return { problem: `has none of ${QUESTION.join(", ")}` };
  const answer = ANSWER.map((each) => value[each]).find((each) => each !== undefined && each !== null) ?? "";
  if (!["string", "number"].includes(typeof answer)) return { problem: "its answer is no text" };
  if (value.measure !== undefined && !MEASURES.includes(value.measure)) return { problem: `the measure “${value.measure}” is not judged here; there are ${MEASURES.join(", ")}` };
  return made(value[name], String(answer), line, value.id, value.measure);
}

function made(question, answer, line, id, measure) {
  const messages = typeof question === "string" ? [{ role: "user", content: question.trim() }] : question;
  const fits = Array.isArray(messages) && messages.length && messages.every((each) => typeof each?.role === "string" && "content" in each);
  if (!fits || messages.at(-1).role !== "user" || !messages.at(-1).content) return { problem: "must end with the user's turn, and that hold text" };
  return { item: { id: String(id ?? line), messages, answer: answer.trim(), measure } };
}

/** CSV or TSV where the first line names a question's column; else a question a line. */
function ofTable(text) {
  const head = text.split(/\r?\n/, 1)[0];
  const sign = head.includes("\t") ? "\t" : head.includes(";") && !head.includes(",") ? ";" : ",";
  const names = fields(head, sign)[0]?.cells.map((name) => name.trim().toLowerCase()) ?? [];
  if (!names.some((name) => QUESTION.includes(name))) {
    const rows = text.split(/\r?\n/).map((line, i) => ({ line: i + 1, text: line })).filter((each) => each.text.trim());
    return { format: "one question a line", problems: [], rows: rows.map(({ line, text: asked }) => ({ line, ...made(asked, "", line) })) };
  }
  const rows = fields(text, sign).slice(1).filter(({ cells }) => cells.some((cell) => cell.trim()));
  return {
    format: sign === "\t" ? "TSV" : "CSV",
    problems: [],
    rows: rows.map(({ line, cells }) => {
      if (cells.length > names.length) return { line, problem: `has ${cells.length} fields, and the first line names ${names.length}` };
      const value = Object.fromEntries(names.map((name, i) => [name, cells[i] ?? ""]).filter(([, cell]) => cell !== ""));
      return { line, ...itemOf(value, line) };
    }),
  };
}

/** The records of RFC 4180: fields in quotes may hold the sign, quotes (doubled) and ends of lines. */
function fields(text, sign) {
  const rows = [];
  let cells = [];
  let cell = "";
  let quoted = false;
  let line = 1;
  let began = 1;
  const end = () => {
    rows.push({ line: began, cells: [...cells, cell] });
    cells = [];
    cell = "";
    began = line;
  };
  for (let i = 0; i < text.length; i++) {
    const letter = text[i];
    if (letter === "\n") line++;
    if (quoted) {
      if (letter !== '"') cell += letter;
      else if (text[i + 1] === '"') cell += text[++i];
      else quoted = false;
    } else if (letter === '"' && cell === "") quoted = true;
    else if (letter === sign) {
      cells.push(cell);
      cell = "";
    } else if (letter === "\n") end();
    else if (letter !== "\r") cell += letter;
  }
  if (cell || cells.length) end();
  return rows;
}
