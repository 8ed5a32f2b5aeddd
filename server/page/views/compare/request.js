// What a column's request is, as JSON, as curl and as Python. The three are one object.
import { base } from "../../core/api.js";

const content = ({ text, images }) =>
  images?.length
    ? [{ type: "text", text }, ...images.map((url) => ({ type: "image_url", image_url: { url } }))]
    : text;

/** The messages of a column up to and with a turn. An earlier answer that failed is left out with its question. */
export function messagesOf(turns, id, settings) {
  const messages = settings.system.trim() ? [{ role: "system", content: settings.system }] : [];
  turns.forEach((turn, i) => {
    if (i === turns.length - 1) return messages.push({ role: "user", content: content(turn) });
    const answer = turn.answers[id]?.get();
    if (!answer || !(answer.text || answer.calls.length)) return;
    messages.push({ role: "user", content: content(turn) });
    if (!answer.calls.length) return messages.push({ role: "assistant", content: answer.text });
    messages.push({ role: "assistant", content: answer.text || null, tool_calls: answer.calls });
    for (const call of answer.calls) messages.push({ role: "tool", tool_call_id: call.id, content: "(not run)" });
  });
  return messages;
}

/** The body of a request; what is not set is not sent. */
export function body({ model, alignment }, messages, settings, seed) {
  const { temperature, max_tokens, tools } = settings;
  const given = { temperature, max_tokens, seed, tools: tools?.length ? tools : null };
  const wish = { trace: true };
  if (typeof alignment === "string") wish.name = alignment;
  else if (alignment) wish.pipeline = alignment;
  return {
    model,
    messages,
    ...Object.fromEntries(Object.entries(given).filter(([, value]) => value !== null && value !== undefined)),
    alignment: wish,
  };
}

const quoted = (text) => `'${text.replaceAll("'", String.raw`'\''`)}'`;
const address = () => base.href.replace(/\/$/, "");

/** As a shell command. A key, where one is needed, comes from the environment. */
export function asCurl(request, { keys }) {
  return [
    `curl ${quoted(`${address()}/v1/chat/completions`)}`,
    `-H 'content-type: application/json'`,
    ...(keys ? [`-H "authorization: Bearer $HEEDFUL_API_KEY"`] : []),
    `-d ${quoted(JSON.stringify(request))}`,
  ].join(" \\\n  ");
}

/** As Python, by OpenAI's client. */
export function asPython(request, { keys }) {
  const { alignment, ...rest } = request;
  const fields = Object.entries(rest).map(([name, value]) => `    ${name}=${python(value)},\n`).join("");
  const key = keys ? 'os.environ["HEEDFUL_API_KEY"]' : '"none"';
  return `${keys ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(base_url=${python(`${address()}/v1`)}, api_key=${key})
answer = client.chat.completions.create(
${fields}    extra_body={"alignment": ${python(alignment)}},
)
print(answer.choices[0].message.content)
`;
}

/** A JSON value as a Python literal. */
export function python(value) {
  if (value === null || value === undefined) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value === "string") return JSON.stringify(value).replace(/\\u([0-9a-f]{4})/g, "\\u$1");
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "object") {
    return `{${Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${python(each)}`).join(", ")}}`;
  }
  return String(value);
}
