// Tokens: their source, and when to renew them.

import { ChatError, droppable } from "./chat-answer.js";
import { clearDeadline, setDeadline, unref } from "./chat-time.js";

/** How long the application may take for a token. */
const TOKEN_MS = 120_000;

/** Tokens are not renewed more often, however soon they expire. */
const SHORTEST_MS = 1_000;

/** The application has no further token for this user: the token function throws it. */
export class Unauthorized extends ChatError {
  constructor(message) {
    super("unauthorized", message || "There is no token.");
  }
}

export class TokenSource {
  #source;
  /** The pending call of the application: the next attempt uses a late token. */
  #pending = null;

  /** `source`: a function that returns a token. */
  constructor(source) {
    this.#source = source;
  }

  /** A new token, of the one call that is made at a time. */
  ask() {
    let deadline;
    this.#pending ??= droppable(
      new Promise((resolve, reject) => {
        deadline = unref(setDeadline(() => reject(new Error(`none within ${TOKEN_MS / 1000} s`)), TOKEN_MS));
        tokenFrom(this.#source).then(resolve, reject);
      }).finally(() => {
        clearDeadline(deadline);
        this.#pending = null;
      }),
    );
    return this.#pending;
  }
}

/** When to renew a token that expires in so many milliseconds: between eight and nine tenths of
 *  them, so that clients which connected together do not ask together. */
export function renewalDelay(expiresInMs) {
  return Math.max(SHORTEST_MS, expiresInMs * (0.8 + 0.1 * Math.random()));
}

/** What the application gives as a token. Nothing, or an error with the code `unauthorized`, is
 *  its word that there will be none. */
async function tokenFrom(give) {
  let token;
  try {
    token = await give();
  } catch (error) {
    throw error?.code === "unauthorized" ? new Unauthorized(error.message) : error;
  }
  if (token === undefined || token === null || token === "") throw new Unauthorized();
  return token;
}
