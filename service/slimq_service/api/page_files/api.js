// Requests to the service, with the key of this tab. Errors are shown as the service says them.

const BASE = new URL("../", import.meta.url);
const KEY = "slimq-key";

/** An error of the service, with its problem document. */
export class ServiceError extends Error {
  constructor(problem, status) {
    super(problem.detail ?? problem.error ?? problem.title ?? `status ${status}`);
    this.problem = problem;
    this.status = status;
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

export function urlOf(path) {
  return new URL(path, BASE).href;
}

/** The path of a policy or one of its variants. */
export function pathOf(policy, variant) {
  const base = `v1/policies/${encodeURIComponent(policy)}`;
  return variant === undefined ? base : `${base}/variants/${encodeURIComponent(variant)}`;
}

/** Sends a request; rejects with a `ServiceError`, or an `Error` if there is no answer. */
export async function send(path, { headers = {}, ...options } = {}) {
  const own = key.get();
  let response;
  try {
    const all = { ...headers, ...(own ? { "x-api-key": own } : {}) };
    response = await fetch(urlOf(path), { ...options, headers: all });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(`The service does not answer: ${error.message}`);
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  throw new ServiceError(problem, response.status);
}

export async function get(path, options) {
  const headers = { accept: "application/json" };
  return (await send(path, { ...options, headers })).json();
}

/** The answer, or null where there is none (404). */
export async function find(path, options) {
  try {
    return await get(path, options);
  } catch (error) {
    if (error instanceof ServiceError && error.status === 404) return null;
    throw error;
  }
}

export async function post(path, body, type = "application/json", options = {}) {
  const headers = { "content-type": type, accept: "application/json" };
  return (await send(path, { ...options, method: "POST", body, headers })).json();
}
