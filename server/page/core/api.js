// The one way to the server: the public API, with the tab's key, and errors as `ApiError`.
import { events } from "./sse.js";
import { key, wanted } from "./key.js";

/** The server's own address, also below a path: this file is PATH/page/core/api.js. */
export const base = new URL("../../", import.meta.url);

/** What went wrong, as the server said it. `status` is 0 where no answer came; `more` is what else the error told. */
export class ApiError extends Error {
  constructor(message, { status = 0, code = null, param = null, type = null, retryAfter = null, ...more } = {}) {
    super(message);
    Object.assign(this, { name: "ApiError", status, code, param, type, retryAfter, more });
  }
}

/**
 * One request: the answer's JSON, or its text where it is none. Raises ApiError, or an AbortError once `signal` is.
 * `body` goes as JSON, unless it is a string, a Blob or FormData. A missing or ended key is asked for, and the request
 * is sent again with the new one.
 */
export async function call(path, { method, body, headers, signal } = {}) {
  const response = await send(path, { method: method ?? (body === undefined ? "GET" : "POST"), body, headers, signal });
  const type = response.headers.get("content-type") ?? "";
  if (response.status === 204) return null;
  return type.includes("json") && !type.includes("jsonl") ? response.json() : response.text();
}

/** As `call`, and the answer as it is: for downloads and headers. */
export async function send(path, options = {}) {
  const { method = "GET", body, headers = {}, signal } = options;
  const asked = key.get();
  const raw = body === undefined || typeof body === "string" || body instanceof Blob || body instanceof FormData;
  let response;
  try {
    response = await fetch(new URL(path.replace(/^\//, ""), base), {
      method,
      signal,
      body: raw ? body : JSON.stringify(body),
      headers: {
        ...(raw ? {} : { "content-type": "application/json" }),
        ...(asked ? { authorization: `Bearer ${asked}` } : {}),
        ...headers,
      },
      credentials: "omit",
      redirect: "error",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server can't be reached. Is it still running?", { code: "unreachable" });
  }
  if (response.ok) return response;
  const error = await refusal(response);
  // Another request may have been given a new key meanwhile.
  if (response.status === 401 && (asked !== key.get() || (await wanted(error.message)))) return send(path, options);
  throw error;
}

/**
 * The events of a stream, parsed, one after the other. Ends with the server's [DONE]; raises ApiError where an event
 * is an error, or where the stream breaks off before its end. Notes of a trace that is told live come as
 * `{event: "heedful", ...note}`.
 */
export async function* stream(path, options) {
  const response = await send(path, { method: "POST", ...options });
  try {
    for await (const { event, data } of events(response.body)) {
      if (data === "[DONE]") return;
      let value;
      try {
        value = JSON.parse(data);
      } catch {
        throw new ApiError("The server sent an event that is no JSON.", { code: "bad_event" });
      }
      if (value?.error) throw told(value.error, response.status);
      yield event ? { ...value, event } : value;
    }
  } catch (error) {
    if (error instanceof ApiError || error.name === "AbortError") throw error;
    throw new ApiError("The connection broke before the answer was complete.", { code: "broken_off" });
  }
  throw new ApiError("The answer ended before it was complete.", { code: "broken_off" });
}

async function refusal(response) {
  const text = await response.text();
  const retryAfter = response.headers.get("retry-after");
  try {
    return told(JSON.parse(text).error, response.status, retryAfter);
  } catch {
    return new ApiError(text.slice(0, 500) || `The server answered ${response.status}.`, {
      status: response.status,
      retryAfter,
    });
  }
}

function told(error, status, retryAfter = null) {
  const message = typeof error === "string" ? error : (error.message ?? JSON.stringify(error));
  return new ApiError(message, { ...error, status, retryAfter });
}
