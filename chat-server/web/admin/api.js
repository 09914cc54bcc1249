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
    return this.#call("GET", `${path}${query.size > 0 ? `?${query}` : ""}`, undefined, signal);
  }

  async post(path, body = {}) {
    return this.#call("POST", path, body);
  }

  async #call(method, path, body, signal) {
    const [status, answer] = await (hasDots(path) ? this.#batched(method, path, body, signal) : this.#answer(method, path, body, signal));
    if (status >= 200 && status < 300) return answer;
    throw new ApiError(status, answer.code, answer.message ?? `The server answers with ${status}.`);
  }

  /** Makes a call whose path a browser would change: within the body of another. */
  async #batched(method, path, body, signal) {
    const [status, answer] = await this.#answer("POST", "/batch", { calls: [{ method, path, body }] }, signal);
    const [made] = answer.results ?? [{ status, body: answer }];
    return [made.status, made.body];
  }

  async #answer(method, path, body, signal) {
    const signals = [AbortSignal.timeout(TIMEOUT_MS), ...(signal ? [signal] : [])];
    let response;
    try {
      response = await fetch(`/api${path}`, {
        method,
        headers: { ...(body && { "Content-Type": "application/json" }), Authorization: `Bearer ${this.#key}` },
        body: body && JSON.stringify(body),
        cache: "no-store",
        signal: AbortSignal.any(signals),
      });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new ApiError(0, "unavailable", "The server does not answer.");
    }
    return [response.status, await response.json().catch(() => ({}))];
  }
}

/** Whether the name of a room or of a user is `.` or `..`: a browser takes such a part out of an address, also one that
 *  is percent-encoded. */
function hasDots(path) {
  return path.split("?")[0].split("/").some((part) => part === "." || part === "..");
}

/** Waits for a call that fills an element, which looks old while the call fails. */
export async function currently(element, call) {
  try {
    const answer = await call;
    element.classList.remove("stale");
    return answer;
  } catch (error) {
    element.classList.add("stale");
    throw error;
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
