/** Closes a client once what waits is sent, or after ten seconds. */
export async function end(chat) {
  const until = Date.now() + 10_000;
  while (chat.queued > 0 && Date.now() < until) await new Promise((resolve) => setTimeout(resolve, 50));
  chat.close();
}
