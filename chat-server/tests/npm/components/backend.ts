// The application's backend, with the server of the chat, for the applications of the documentation.

import { TestServer } from "roomcast/testing";
import { vi } from "vitest";

export class Backend {
  readonly server = new TestServer();
  /** The user of the session. */
  user: string | null = null;
  /** The users to whom it gave tokens. */
  tokens: string[] = [];
  /** Answers to a log-in in place of a session. */
  atLogin: (() => Promise<Response>) | undefined;

  constructor() {
    vi.stubGlobal("WebSocket", this.server.WebSocket);
    vi.stubGlobal("fetch", (path: string, init?: { body: URLSearchParams }) => this.#answer(path, init?.body));
  }

  async #answer(path: string, body?: URLSearchParams): Promise<Response> {
    if (path === "/login" && this.atLogin) return this.atLogin();
    if (path === "/login") this.user = body?.get("name") ?? null;
    if (path === "/logout") this.user = null;
    if (path !== "/chat-token") return new Response("");
    if (this.user === null) return new Response("", { status: 401 });
    this.tokens.push(this.user);
    return new Response(this.user);
  }
}

/** How a log-in may fail. */
export const LOGIN_FAILURES: [string, () => Promise<Response>][] = [
  ["is refused", async () => new Response("", { status: 503 })],
  ["is not answered", () => Promise.reject(new TypeError("Failed to fetch"))],
];
