/** Types of `chat-testing.js`. */

import type { Capability, ErrorCode, Limits, Position, User } from "./chat-client.js";

/** A user by name, which is the id, too; or in full. */
export type Person = string | { id: string; name?: string; color?: string };

/** A chat server in memory. It has no timers: what it sends arrives when the promises of a test
 *  have settled, under fake timers as well. */
export class TestServer {
  /** `limits`: members of `limits` in `welcome`. `expiresInMs`: the lifetime of tokens; by default
   *  they do not expire. `userOf`: the user of a token, or nothing if it is not valid; by default
   *  the token is the id and the name. `can`: the capabilities of a user in a room; by default all. */
  constructor(options?: {
    limits?: Partial<Limits>;
    expiresInMs?: number;
    userOf?: (token: string) => User | null | undefined;
    can?: (user: User, room: string) => readonly Capability[];
  });

  /** The class that a client takes as the option `WebSocket`; or stub the global one with it. */
  readonly WebSocket: new (url: string, protocols?: string | string[]) => unknown;
  /** Whether new connections are accepted; without it they fail. Default `true`. */
  isReachable: boolean;
  /** Whether all that either side sends is lost, as on a line that has died. Default `false`. */
  isSilent: boolean;
  /** The frames of all clients, in order. */
  readonly received: Record<string, unknown>[];
  /** How many clients are connected. */
  readonly connections: number;

  /** The position after the latest message of a room. */
  position(room: string): Position;
  /** A user sends a message to a room. */
  say(
    room: string,
    user: Person,
    message: string,
    options?: { data?: unknown; key?: string },
  ): { epoch: string; offset: number };
  /** A user joins a room; one who is there under another name is renamed. */
  join(room: string, user: Person): void;
  leave(room: string, user: Person): void;
  /** A user types, or stops with `false`. */
  typing(room: string, user: Person, typing?: boolean): void;
  /** Sends a direct message to a client's user, by id. Returns how many clients get it. */
  direct(to: string, user: Person, message: string, options?: { data?: unknown }): number;
  /** Removes a client's user, by id, from a room. */
  kick(room: string, user: string, message?: string, reason?: "kicked" | "banned" | "forbidden"): void;
  /** Removes a client's user, by id, who cannot join for some seconds, or until `unban`. */
  ban(room: string, user: string, options?: { seconds?: number; message?: string }): void;
  unban(room: string, user: string): void;
  /** Ends all connections, or those of one user, with a close code; 1006 by default: lost. */
  drop(code?: number, options?: { user?: string; reason?: string }): void;
  /** Sends a `goodbye` first. */
  goodbye(
    code: number,
    goodbye: { reason: string; reconnect?: boolean; after_ms?: number; message?: string; until?: number },
    user?: string,
  ): void;
  /** Carries out the next request of a type (`send` by default), and does not answer it. */
  loseAnswer(type?: string): void;
  /** Refuses the next request of a type. */
  refuse(
    type: string,
    code: ErrorCode,
    options?: { retryAfterMs?: number; message?: string; until?: number; reason?: string },
  ): void;
  /** Refuses the next token. */
  refuseToken(): void;
  /** Loses what a room has kept: its members receive a `gap`. */
  forget(room: string): void;
}
