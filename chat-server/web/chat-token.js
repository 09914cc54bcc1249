// Tokens and their source.

import { ChatError, droppable } from "./chat-answer.js";
import { clearDeadline, setDeadline, unref } from "./chat-time.js";

/** The application has no further token for this user: the token function throws it. */
export class Unauthorized extends ChatError {
  constructor(message) {
    super("unauthorized", message || "There is no token.");
  }
}

/** A source of tokens: a function that resolves to a new token, of the one call of `give` that is
 *  made at a time. The next attempt uses a late token. */
export function tokenSource(give, timeoutMs) {
  let pending = null;
  return () => {
    let deadline;
    pending ??= droppable(
      new Promise((resolve, reject) => {
        deadline = unref(setDeadline(() => reject(new ChatError("timeout")), timeoutMs));
        tokenFrom(give).then(resolve, reject);
      }).finally(() => {
        clearDeadline(deadline);
        pending = null;
      }),
    );
    return pending;
  };
}

/** What the application gives as a token. Nothing, or an error with the code `unauthorized`, is
 *  its word that there will be none. */
async function tokenFrom(give) {
  let why;
  try {
    const token = await give();
    if (token) return token;
  } catch (error) {
    if (error?.code !== "unauthorized") throw error;
    why = error.message;
  }
  throw new Unauthorized(why);
}
