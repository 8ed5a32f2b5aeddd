// Server-sent events of a fetched body.
const NOTE = ": heedful ";

/**
 * Each event of a stream of bytes, as `{event, data}`; what is begun and not ended is none. A comment of ours, by which
 * the server tells what it does meanwhile, is an event "heedful".
 */
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = "";
  let data = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      rest += value;
      // A \r at the end may be half of a \r\n.
      const lines = rest.split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (data.length) yield { event, data: data.join("\n") };
          event = "";
          data = [];
        } else if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
        else if (line.startsWith(NOTE)) yield { event: "heedful", data: line.slice(NOTE.length) };
        else if (line.startsWith("event:")) event = line.slice(line[6] === " " ? 7 : 6);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
