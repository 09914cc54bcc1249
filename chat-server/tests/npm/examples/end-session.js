/** Ends the session of the user. Throws an error with the code `not_logged_out` if it goes on, or
 *  `log_out_unknown`. */
export async function endSession(user) {
  const name = encodeURIComponent(user);
  const answer = await ask(`/logout?user=${name}`, { method: "POST" });
  // 401: this user has no session, as where another tab has logged in as another user.
  if (answer?.ok || answer?.status === 401) return;
  // Without an answer, or with one of a proxy, the session may be over: then there is no token.
  const isKnown = answer?.status < 500;
  if (!isKnown && (await ask(`/chat-token?user=${name}`))?.status === 401) return;
  throw Object.assign(new Error("The log-out failed."), { code: isKnown ? "not_logged_out" : "log_out_unknown" });
}

/** What the application answers, or nothing if no answer comes in time. */
function ask(path, options) {
  return fetch(path, { cache: "no-store", signal: AbortSignal.timeout(10_000), ...options }).catch(() => undefined);
}
