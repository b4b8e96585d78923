// Fetches the files of the export; an error names the file and what is wrong with it.

/** The bytes of a file; `onProgress` gets those that have arrived so far. */
export async function fetchBytes(path, onProgress = () => {}) {
  let response;
  try {
    response = await fetch(path);
  } catch {
    throw new Error(`${path} could not be loaded: the server does not answer`);
  }
  if (!response.ok) throw new Error(`${path} could not be loaded: HTTP ${response.status}`);
  const parts = [];
  let length = 0;
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read().catch(() => {
      throw new Error(`${path} could not be loaded: the connection was lost`);
    });
    if (done) break;
    parts.push(value);
    length += value.length;
    onProgress(length);
  }
  const bytes = new Uint8Array(length);
  let place = 0;
  for (const part of parts) {
    bytes.set(part, place);
    place += part.length;
  }
  return bytes;
}

export async function fetchJson(path) {
  const bytes = await fetchBytes(path);
  try {
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    throw new Error(`${path} is not JSON: the export is damaged`);
  }
}

/** The bytes of a file that must be the one of the report. */
export async function fetchExact({ path, bytes, sha256 }) {
  const content = await fetchBytes(path);
  if (content.length !== bytes) {
    throw new Error(`${path} has ${content.length} bytes, the report says ${bytes}`);
  }
  // Browsers hash only on pages from https or this machine.
  if (sha256 && globalThis.crypto?.subtle) {
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
    const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
    if (found !== sha256) throw new Error(`${path} is not the model of the report: export it again`);
  }
  return content;
}
