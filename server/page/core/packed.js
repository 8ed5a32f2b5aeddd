// A value in an address: JSON, compressed, as base64url. Nothing of it leaves the browser in a fragment.
const through = (blob, transform) => new Response(blob.stream().pipeThrough(transform)).arrayBuffer();

export async function pack(value) {
  const bytes = new Uint8Array(await through(new Blob([JSON.stringify(value)]), new CompressionStream("deflate-raw")));
  let text = "";
  for (let i = 0; i < bytes.length; i += 0x8000) text += String.fromCharCode(...bytes.subarray(i, i + 0x8000));
  return btoa(text).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/** Raises an Error for what is not whole. */
export async function unpack(text) {
  const bytes = Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (sign) => sign.charCodeAt(0));
  return JSON.parse(new TextDecoder().decode(await through(new Blob([bytes]), new DecompressionStream("deflate-raw"))));
}
