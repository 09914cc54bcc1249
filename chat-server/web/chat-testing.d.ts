/** Types of `chat-testing.js`. */

import type { Capability, GoodbyeReason, LeftReason, Limits, Message, Position, ServerErrorCode, User } from "./chat-client.js";

/** A user by name, which is the id, too; or in full. */
export type Person = string | { id: string; name?: string | undefined; color?: string | undefined };

/** Which requests a fault is meant for: by default those of all users, in all rooms. The user of a first `hello` is
 *  not known yet. */
export interface Whose {
  /** The id of a user, who need not have connected yet. */
  user?: string | undefined;
  room?: string | undefined;
}

/** How long a ban lasts, by default and from ten years on until it is lifted, and the moderator's words. */
export interface BanOptions {
  seconds?: number | undefined;
  message?: string | undefined;
}

/** What a client asks for. */
export type RequestType =
  | "hello"
  | "join"
  | "leave"
  | "send"
  | "direct"
  | "typing"
  | "history"
  | "members"
  | "ping"
  | "kick"
  | "ban"
  | "unban";

/** A WebSocket in memory, with handlers and listeners of `open`, `message`, `error` and `close`. */
export interface TestWebSocket extends EventTarget {
  readonly CONNECTING: 0;
  readonly OPEN: 1;
  readonly CLOSING: 2;
  readonly CLOSED: 3;
  readonly readyState: number;
  readonly url: string;
  readonly protocol: string;
  onopen: ((event: object) => void) | null;
  onmessage: ((event: { data: string }) => void) | null;
  onerror: ((event: { message: string }) => void) | null;
  onclose: ((event: { code: number; reason: string }) => void) | null;
  send(text: string): void;
  close(code?: number, reason?: string): void;
}

/** A chat server in memory. It has no timers: what it sends arrives when the promises of a test
 *  have settled, under fake timers as well. Its methods throw a `TypeError` for an option, a code or the id of a user
 *  that they do not know; docs/javascript.md lists what is accepted. */
export class TestServer {
  /** `limits`: members of `limits` in `welcome`. `expiresInMs`: the lifetime of tokens; by default
   *  they do not expire. `userOf`: the user of a token, or nothing if it is not valid; with it a client
   *  without a token is refused. By default none needs one, and a token is the id and the name, but for
   *  what follows a `#`: `ann#2` is another token of `ann`. `can`: the capabilities of a user in a room, or, for
   *  `direct`, with the recipient: `room` is `@bob` for a direct message to the user `bob`. By default all but
   *  `moderate`, as on a real server without tokens, and by a token without `rooms`. It is asked at each request; what a
   *  client receives by itself follows its latest join or token. `history`: whether rooms keep messages, and so have
   *  positions; by default they do. */
  constructor(options?: {
    limits?: Partial<Limits> | undefined;
    expiresInMs?: number | undefined;
    userOf?: ((token: string) => Person | null | undefined) | undefined;
    can?: ((user: User, room: string) => readonly (Capability | "direct")[]) | undefined;
    history?: boolean | undefined;
  });

  /** The class that a client takes as the option `WebSocket`; or stub the global one with it. */
  readonly WebSocket: {
    new (url: string, protocols?: string | string[]): TestWebSocket;
    readonly CONNECTING: 0;
    readonly OPEN: 1;
    readonly CLOSING: 2;
    readonly CLOSED: 3;
  };
  /** Whether new connections are accepted; without it they fail. Default `true`. */
  isReachable: boolean;
  /** Whether all that either side sends is lost, as on a line that has died. Default `false`. */
  isSilent: boolean;
  /** The ids of users on whose lines all is lost, beside `isSilent`. */
  readonly silentUsers: Set<string>;
  /** The frames of all clients, in order. */
  readonly received: Record<string, unknown>[];
  /** How many clients are connected. */
  readonly connections: number;

  /** What `loseAnswer` and `refuse` have asked for, and no request has met yet: a test ends without any. */
  readonly faults: readonly (Whose & { type: RequestType; code?: ServerErrorCode | undefined })[];

  /** The position after the latest message of a room; without `history`, an empty object. */
  position(room: string): Partial<Position>;
  /** The messages that a room keeps, oldest first. */
  messages(room: string): Message[];
  /** The users who are in a room, also those who were lost a moment ago. */
  members(room: string): User[];
  /** A message of a user is sent to a room, at a time in milliseconds since 1970, by default now. As with the HTTP
   *  API, the user need not be in the room and does not join it, and neither capabilities nor bans count. Throws a
   *  `TypeError` for a message that a real server refuses from everybody, such as a blank one. Returns the position of
   *  the message; without `history`, an empty object. */
  say(
    room: string,
    user: Person,
    message: string,
    options?: { data?: unknown; key?: string | undefined; at?: number | undefined },
  ): Partial<Position>;
  /** A user joins a room; one who is there under another name is renamed. Throws a `TypeError` for one who is
   *  banned there. */
  join(room: string, user: Person): void;
  /** Makes a user leave a room: the user's client receives `left` without a reason. Throws a `TypeError` for one who is
   *  not there. */
  leave(room: string, user: Person): void;
  /** The grace period is over: users whose connections were lost, or this one, leave the rooms in
   *  which they still are. Until then a lost user stays, and nothing is sent when it returns. Throws a `TypeError` for
   *  one who is lost in no room. */
  expireGrace(user?: string): void;
  /** A user types, or stops with `false`. */
  typing(room: string, user: Person, typing?: boolean): void;
  /** Sends a direct message to a client's user, by id. Returns how many clients get it. */
  direct(to: string, user: Person, message: string, options?: { data?: unknown }): number;
  /** Removes a user, by id, from a room. Throws a `TypeError` for one who is not there. */
  kick(room: string, user: string, message?: string, reason?: LeftReason): void;
  /** Removes a client's user, by id, who cannot join for some seconds, or until `unban`. */
  ban(room: string, user: string, options?: BanOptions): void;
  unban(room: string, user: string): void;
  /** Ends the connections of a user, by id, who cannot connect for some seconds, or until `unbanUser`. */
  banUser(user: string, options?: BanOptions): void;
  unbanUser(user: string): void;
  /** Ends all connections, or those of one user, with a close code; 1006 by default: lost. `reason` is by default what
   *  a server says with the code. */
  drop(code?: number, options?: { user?: string | undefined; reason?: string | undefined }): void;
  /** Ends all connections, and each later one, for good: the clients are `closed`. */
  close(): void;
  /** Resolves when all that is on its way has arrived, and what follows from it without a timer. */
  settled(): Promise<void>;
  /** Sends a frame as it is: to the clients in its `room`, or if it has none to all; with `user`, to this user's
   *  alone. */
  push(frame: { type: string; room?: string; [member: string]: unknown }, options?: { user?: string | undefined }): void;
  /** Sends a `goodbye`, and ends the connections with a close code of a server. `reconnect` is by default as the code
   *  says. */
  goodbye(
    code: number,
    goodbye: {
      reason: GoodbyeReason;
      reconnect?: boolean | undefined;
      after_ms?: number | undefined;
      message?: string | undefined;
      until?: number | undefined;
    },
    user?: string,
  ): void;
  /** Carries out the next request of a type (`send` by default), and does not answer it. Throws a
   *  `TypeError` if there is no such type. */
  loseAnswer(type?: RequestType, options?: Whose): void;
  /** Refuses the next request of a type. Throws a `TypeError` if there is no such type. */
  refuse(
    type: RequestType,
    code: ServerErrorCode,
    options?: Whose & {
      retryAfterMs?: number | undefined;
      message?: string | undefined;
      until?: number | undefined;
      reason?: string | undefined;
    },
  ): void;
  /** The tokens of all clients, or that of one user, have expired, and are refused from then on: a client
   *  with a token function asks it for another one, and any other is `closed`. A client renews a token that expires in
   *  `expiresInMs` before that, but not within the first second. */
  expireToken(user?: string): void;
  /** Refuses the next token. */
  refuseToken(): void;
  /** Loses what a room has kept: its members receive a `gap`. */
  forget(room: string): void;
}
