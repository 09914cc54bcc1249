// The calls of `/api`, with the key of the operator.

/** A server that does not answer within this time is unavailable. */
const TIMEOUT_MS = 10_000;

/** A call that failed: the HTTP status (0: no answer), and the code of the protocol. */
export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    this.name = "ApiError";
    this.status = status;
    this.code = code;
  }
}

export class Api {
  #key;

  constructor(key) {
    this.#key = key;
  }

  /** `get("/rooms/a%2Fb", { limit: 10 })`; parameters without a value are left out. */
  async get(path, params = {}, signal) {
    const given = Object.entries(params).filter(([, value]) => value !== undefined && value !== "");
    const query = new URLSearchParams(given);
    return this.#call(`/api${path}${query.size > 0 ? `?${query}` : ""}`, { signal });
  }

  async post(path, body = {}) {
    const headers = { "Content-Type": "application/json" };
    return this.#call(`/api${path}`, { method: "POST", headers, body: JSON.stringify(body) });
  }

  async #call(path, { signal, headers = {}, ...options }) {
    const signals = [AbortSignal.timeout(TIMEOUT_MS), ...(signal ? [signal] : [])];
    let response;
    try {
      response = await fetch(path, {
        ...options,
        headers: { ...headers, Authorization: `Bearer ${this.#key}` },
        cache: "no-store",
        signal: AbortSignal.any(signals),
      });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new ApiError(0, "unavailable", "The server does not answer.");
    }
    const answer = await response.json().catch(() => ({}));
    if (response.ok) return answer;
    throw new ApiError(response.status, answer.code, answer.message ?? `The server answers with ${response.status}.`);
  }
}

/** Waits for all calls of a view, each of which shows its own answer, and fails with the first failure:
 *  what fails, as the list of servers does without Redis, leaves the rest on the page up to date. */
export async function settled(calls) {
  const outcomes = await Promise.allSettled(calls);
  const failed = outcomes.find(({ status }) => status === "rejected");
  if (failed) throw failed.reason;
}

/** The path of a room, or of what is below it. */
export function roomPath(room, rest = "") {
  return `/rooms/${encodeURIComponent(room)}${rest}`;
}

/** The path of a user, or of what is below it. */
export function userPath(user, rest = "") {
  return `/users/${encodeURIComponent(user)}${rest}`;
}
