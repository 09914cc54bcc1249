// Tokens and their source.

import { ChatError, droppable } from "./chat-answer.js";
import { TOKEN_MS } from "./chat-numbers.js";
import { clearDeadline, setDeadline, unref } from "./chat-time.js";

/** The application has no further token for this user: the token function throws it. */
export class Unauthorized extends ChatError {
  constructor(message) {
    super("unauthorized", message || "There is no token.");
  }
}

/** A source of tokens: a function that resolves to a new token, of the one call of `give` that is
 *  made at a time. The next attempt uses a late token. */
export function tokenSource(give) {
  let pending = null;
  return () => {
    let deadline;
    pending ??= droppable(
      new Promise((resolve, reject) => {
        deadline = unref(setDeadline(() => reject(new ChatError("timeout")), TOKEN_MS));
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
  let token;
  try {
    token = await give();
  } catch (error) {
    throw error?.code === "unauthorized" ? new Unauthorized(error.message) : error;
  }
  if (token === undefined || token === null || token === "") throw new Unauthorized();
  return token;
}
