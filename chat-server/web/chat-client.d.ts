/** Types of `chat-client.js`. */

export interface User {
  /** Names the user on every server. */
  id: string;
  name: string;
  /** `#RRGGBB` */
  color: string;
}

/** A place in a room's sequence of messages. */
export interface Position {
  epoch: string;
  offset: number;
}

export interface Limits {
  /** Longest text of a message, and longest `data` as JSON, in bytes of UTF-8. */
  message_bytes: number;
  /** Largest frame, in bytes. */
  frame_bytes: number;
  /** Rooms that one connection may be in. */
  rooms: number;
  /** Sends that may be unanswered before the server reads no further. */
  in_flight: number;
  /** How fast a connection may send; absent: unlimited. The client keeps these by itself. */
  frames?: RateLimit;
  joins?: RateLimit;
  bytes?: RateLimit;
  /** Of `joined`, `members` and `history`, and of what messages add to histories, in bytes. */
  answers?: RateLimit;
  kept?: RateLimit;
}

/** A token bucket. */
export interface RateLimit {
  /** In the long run. */
  per_second: number;
  /** At once. */
  burst: number;
}

export interface Welcome {
  session: string;
  resume?: string;
  user: User;
  node: string;
  protocol: number;
  /** How long the token holds from then on, where there is one. */
  expires_in_ms?: number;
  heartbeat_ms: number;
  limits: Limits;
}

export interface Message {
  room: string;
  /** Rises by one; absent in a room without history. */
  offset?: number;
  /** In the first message of a sequence. */
  epoch?: string;
  user: User;
  message: string;
  data?: unknown;
  /** Milliseconds since 1970. */
  at: number;
  key?: string;
}

export interface Joined {
  room: string;
  /** The position of the room after `messages`; absent in a room without history. */
  epoch?: string;
  offset?: number;
  /** In a room that was joined before, or since a position: whether nothing is missed for good. */
  recovered: boolean;
  members: User[];
  /** How many members there are; the list may be shorter. */
  count: number;
  /** The latest ones, or what was missed; if that is much, the rest follows as `message`. */
  messages: Message[];
}

export interface Members {
  room: string;
  members: User[];
  count: number;
}

export interface History extends Position {
  room: string;
  /** Oldest first. */
  messages: Message[];
  /** Whether there are more beyond them, in the direction asked for. */
  more: boolean;
}

export interface Sent {
  key: string;
  /** The message's offset; absent in a room without history. */
  offset?: number;
  epoch?: string;
}

/**
 * - `idle`: not connected yet
 * - `connecting`
 * - `online`: welcome; rooms are being joined or are joined
 * - `waiting`: lost; the next attempt is in `retryInMs`
 * - `closed`: over, until `connect()` is called again
 */
export type State = "idle" | "connecting" | "online" | "waiting" | "closed";

export type StateChange = {
  /** The WebSocket close code that led here. */
  code?: number;
  reason?: string;
  retryInMs?: number;
} & (
  | { state: Exclude<State, "closed">; error?: undefined }
  /** The code of `error` is `closed`, `unauthorized` where the server does not take the token or
   *  there will be none, or another one of the server's. */
  | { state: "closed"; error: ChatError }
);

export type Presence =
  | { room: string; event: "joined" | "left" | "renamed"; user: User }
  | { room: string; event: "count"; count: number };

export interface ChatEvents {
  state: StateChange;
  /** `rejoined`: after a reconnect, or to repair a hole. New ones of `messages` are `message` events as well. */
  joined: Joined & { rejoined: boolean };
  message: Message;
  presence: Presence;
  typing: { room: string; user: User; typing: boolean };
  direct: { user: User; message: string; data?: unknown; at: number };
  /** A message that this client sent with `direct` was dropped: one of the recipient's
   *  connections did not read fast enough. `to` is the recipient's id. */
  undelivered: { to: string; session: string; id?: number };
  /** The messages of a room up to `offset` are lost for good. In a room without history
   *  there is no position, and it is only possible that some were. */
  gap: { room: string; epoch?: string; offset?: number };
  /** The server removed the client from a room, which it does not join again by itself. `reason` is
   *  `kicked`, `banned`, or `forbidden` by a new token; `message` is the moderator's. */
  left: { room: string; reason: string; message?: string };
  /** A send was refused for a reason that passes, and is tried again by itself. */
  delayed: { room: string; key: string; error: ChatError };
  /** A room could not be joined again; the client is no longer in it. */
  refused: { room: string; error: ChatError };
  goodbye: { reason: string; reconnect: boolean; after_ms: number };
  /** An error of the server that answers no request. */
  error: ChatError;
}

/**
 * What the promises of a client are rejected with. A promise that is dropped rejects without notice.
 *
 * `code` is one of the server's, or `offline` (no connection; not sent), `disconnected` (lost
 * before the answer), `outcome_unknown` (of a send: a server may have taken it), `timeout`,
 * `queue_full` (too many sends or requests wait; not sent),
 * `too_large` (the frame is above the limit), `closed`. `message_too_long`,
 * `room_name_invalid` and, for `data` that is no JSON, `bad_field` may also be errors of the
 * client itself, before anything is sent.
 */
export class ChatError extends Error {
  constructor(code: string, message: string, more?: { retryAfterMs?: number; key?: string });
  readonly code: string;
  /** When to try again. */
  readonly retryAfterMs?: number;
  /** Of a send: try again with the same key, and it is not delivered twice. */
  readonly key?: string;
}

export type Token = string | null | undefined;

export interface ChatOptions {
  /** The user's name. Without one the server makes one up. */
  name?: string;
  /** `resume` of an earlier client: be the same user. */
  resume?: string;
  /** A token, or what gives one: asked before each connection, and before a token runs out. If
   *  it fails, or takes longer than two minutes, it is asked again later. If it fails with an error
   *  whose `code` is `unauthorized`, or gives nothing, the user has no access any more: the client
   *  is `closed`. */
  token?: string | (() => Token | Promise<Token>);
  /** The WebSocket class, where the runtime has none of its own. */
  WebSocket?: new (url: string, protocols?: string | string[]) => unknown;
  /** Sends that may wait to be sent, or for an answer, in all rooms. Default 20,000. */
  queueLimit?: number;
  /** Bytes of their frames, at which no further send is taken. Default 16 MiB. */
  queueBytes?: number;
  /** How long a send may take with all that it is tried again, from its first attempt; before
   *  that, how long it may wait without a connection, or without any message of its room being
   *  answered. The time that it waits for its turn at the server's rates does not count.
   *  Default 30,000; the server recognizes repeated keys for five minutes. */
  sendTimeoutMs?: number;
  /** From when a request is sent. Default 15,000. */
  requestTimeoutMs?: number;
  /** From the first byte to the welcome, without the time that a token takes before.
   *  Default 10,000. */
  connectTimeoutMs?: number;
  /** The first pause before a reconnect is a random one below this. Default 500. */
  backoffBaseMs?: number;
  /** No pause is longer. Default 20,000. */
  backoffCapMs?: number;
  /** Silence after which the client pings the server. Default 25,000. */
  pingAfterMs?: number;
  /** How long the server may take to answer the ping. Default 10,000. */
  pongTimeoutMs?: number;
  /** The same for a `check()`; and how long messages alone may be unanswered before the client
   *  pings the server. While another request is unanswered, the server has at least the
   *  rest of that request's time to answer. Default 5,000. */
  checkTimeoutMs?: number;
}

export class ChatClient extends EventTarget {
  /** `url`: `wss://HOST/ws`. Nothing is connected before `connect()`. */
  constructor(url: string | URL, options?: ChatOptions);

  readonly state: State;
  /** The user of this client, after the first `welcome`. */
  readonly user: User | null;
  readonly limits: Limits | null;
  /** The id of the server of the last connection. */
  readonly node: string | null;
  /** The secret with which a later client is the same user. */
  readonly resume: string | undefined;
  /** The rooms that the client is in, or will be once connected. */
  readonly rooms: string[];
  /** Whether as many sends wait as may: the next one would be refused with `queue_full`. */
  readonly isFull: boolean;
  /** How many sends wait to be sent, or for an answer. */
  readonly queued: number;

  /** Calls `handler` with the detail of each event; returns a function that removes the handler. */
  on<K extends keyof ChatEvents>(type: K, handler: (detail: ChatEvents[K]) => void): () => void;

  /** Connects; in state `waiting`, at once. Resolves once welcome. After `close()` it begins again,
   *  and joins the rooms that the client was in. */
  connect(): Promise<Welcome>;
  /** Ends the connection for good. What is called afterwards is rejected with `closed` at once, but
   *  for `connect()`, and for `leave()`, which has nothing left to do. */
  close(): void;
  /** Pings the server at once, and abandons the connection without an answer; in
   *  state `waiting`, connects. Browsers do this by themselves when the network changes and when
   *  the page is seen again; elsewhere call it when the device wakes. */
  check(): void;
  /** Takes another name, which costs a new connection. */
  rename(name: string): Promise<Welcome>;

  /** Joins a room: now, or once connected, and again after each reconnect. `history`: how
   *  many of the latest messages to bring. `since`: a position that an earlier client saved; the
   *  messages after it are `message` events, after a `gap` if some are lost. Joins are not counted:
   *  one `leave` ends them all. */
  join(room: string, options?: { history?: number } | { since: Position }): Promise<Joined>;
  /** Leaves a room, for all parts of the application that have joined it with this client. */
  leave(room: string): Promise<void>;

  /** Resolves once the server has taken the message. The messages of a room go in order,
   *  each once, at the server's rates, over errors that pass and new connections; see
   *  `sendTimeoutMs`. Rejects with `outcome_unknown` if a server may have taken it: after any other
   *  error it was not taken. Rejects with `queue_full` if `isFull`: await a send before that. */
  send(room: string, message: string, options?: { data?: unknown; key?: string }): Promise<Sent>;
  /** `delivered`: how many servers hold the user; 0: offline. See the event `undelivered`. */
  direct(to: string, message: string, options?: { data?: unknown }): Promise<{ delivered: number }>;
  /** Throttled, and not sent while anything else waits to be; call it at each key stroke. */
  typing(room: string, typing: boolean): void;
  members(room: string): Promise<Members>;
  /** Messages before or after an offset, or the newest; at most `limit`, or 256. */
  history(
    room: string,
    options?: { before?: number; after?: number; limit?: number },
  ): Promise<History>;
}
