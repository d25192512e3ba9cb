// The calls of the service. A failure is a Problem whose message is a sentence for the person at the page.

const PATIENCE = 20000; // ms until a call without an answer is given up
const KEPT = "recvae-token";

export class Problem extends Error {
  /** `status`: the answer's, 0 where there was no answer. `again`: seconds after which a new attempt makes sense. */
  constructor(sentence, status, again = null) {
    super(sentence);
    Object.assign(this, { status, again });
  }
}

let token = null;
try { token = sessionStorage.getItem(KEPT); } catch { /* a browser without storage keeps it in memory */ }

/** Use and keep a token, for as long as the tab is open. */
export function useToken(text) {
  token = text;
  try { text === null ? sessionStorage.removeItem(KEPT) : sessionStorage.setItem(KEPT, text); } catch { /* as above */ }
}

export const hasToken = () => token !== null;

/** Call the service; return its document, or raise a Problem, or an AbortError where `signal` gave it up. */
async function call(path, { body, signal } = {}) {
  const patience = AbortSignal.timeout(PATIENCE);
  const headers = {};
  if (token !== null) headers.Authorization = `Bearer ${token}`;
  if (body) headers["Content-Type"] = "application/json";
  let answer, text;
  try {
    answer = await fetch(path, {
      method: body ? "POST" : "GET",
      headers,
      body: body ? JSON.stringify(body) : undefined,
      cache: "no-store",
      signal: signal ? AbortSignal.any([signal, patience]) : patience,
    });
    text = await answer.text();
  } catch (failure) {
    if (signal?.aborted) throw failure;
    const slow = failure.name === "TimeoutError";
    throw new Problem(slow ? "The service takes too long to answer." : "The service does not answer.", 0, 2);
  }
  let document = null;
  try { document = JSON.parse(text); } catch { /* a proxy's page, not the service's document */ }
  if (answer.ok && document !== null) return document;
  const waiting = Number(answer.headers.get("Retry-After")) || null;
  const passing = [502, 503, 504].includes(answer.status);
  const sentence = document?.detail || (passing ? "The service is not ready." : `The service answered with status ${answer.status}.`);
  throw new Problem(sentence, answer.status, passing ? (waiting ?? 2) : null);
}

const named = (model) => (model === null ? "v1" : `v1/models/${encodeURIComponent(model)}`);

export const models = () => call("v1/models");
export const model = (name) => call(`${named(name)}/model`);
export const recommend = (name, body, signal) => call(`${named(name)}/recommend`, { body, signal });
export const similar = (name, body, signal) => call(`${named(name)}/similar`, { body, signal });

/** Search titles and ids. */
export const search = (name, text, signal) =>
  call(`${named(name)}/items?${new URLSearchParams({ q: text, limit: 20 })}`, { signal });

/** Look up items by their ids, a few at a time: an address of a call has a length. */
export async function lookUp(name, ids) {
  const found = { items: [], unknown: [] };
  for (let start = 0; start < ids.length; start += 50) {
    const part = new URLSearchParams(ids.slice(start, start + 50).map((id) => ["id", id]));
    const answer = await call(`${named(name)}/items?${part}`);
    found.items.push(...answer.items);
    found.unknown.push(...(answer.unknown ?? []));
  }
  return found;
}
