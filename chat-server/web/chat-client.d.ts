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

export interface Message<Data = unknown> {
  room: string;
  /** Rises by one; absent in a room without history. */
  offset?: number;
  /** Of each `message` event, unless the room has no history: `{ epoch, offset }` is a position for
   *  `since`. In the lists of an answer the first message of a sequence has it, and others may. */
  epoch?: string;
  user: User;
  message: string;
  data?: Data;
  /** Milliseconds since 1970. */
  at: number;
  key?: string;
}

/** What a user may do in a room. */
export type Capability = "join" | "send" | "history" | "presence" | "moderate";

export interface Joined<Data = unknown> {
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
  messages: Message<Data>[];
  /** Whether the history has messages before these, if the server says so. */
  more?: boolean;
  /** What the user may do in the room, if the server says so. */
  can?: Capability[];
}

export interface Members {
  room: string;
  members: User[];
  count: number;
}

export interface History<Data = unknown> extends Position {
  room: string;
  /** Oldest first. */
  messages: Message<Data>[];
  /** Whether there are more beyond them, in the direction asked for. */
  more: boolean;
}

export interface Sent {
  key: string;
  /** The message's offset; absent in a room without history. */
  offset?: number;
  epoch?: string;
}

export type State = StateChange["state"];

/**
 * What has ended a client for good:
 * - `client`: `close()`, or no connection can be made at all (an invalid address, no `WebSocket`)
 * - `kick`, `ban`: a moderator
 * - `token_expired`: the token ran out, and there is no function that gives another
 * - `token_refused`: the server does not accept the token
 * - `no_token`: the token function threw `Unauthorized`, or gave nothing; or the client has no
 *   `token`, and the server wants one
 * - `server`: a close code, a `goodbye` or an error that is final
 */
export type EndedBy =
  | "client"
  | "kick"
  | "ban"
  | "token_expired"
  | "token_refused"
  | "no_token"
  | "server";

/** The union, whose members can be destructured: each has the names of all, those of the others as `undefined`. */
type Whole<Union, Names extends PropertyKey = NamesOf<Union>> = Union extends unknown
  ? Union & { [Name in Exclude<Names, keyof Union>]?: undefined }
  : never;
type NamesOf<Union> = Union extends unknown ? keyof Union : never;

export type StateChange = Whole<
  /** Not connected yet. */
  | { state: "idle" }
  | { state: "connecting" }
  /** Welcome; rooms are being joined or are joined. */
  | { state: "online" }
  /** The connection was lost, with this WebSocket close code; the next attempt is in `retryInMs`.
   *  In the back/forward cache this is 0, and the next attempt begins when the page is shown again. */
  | { state: "waiting"; retryInMs: number; code: number; reason: string }
  /** Over, until `connect()` is called again. `message`: the moderator's words. `until`: when the
   *  ban ends, in milliseconds since 1970, if the server says so. `error` has the code `kicked` or
   *  `banned`, with the same as `reason` and `until`; `unauthorized`, if no token is valid; another one of
   *  the server, or `closed`. */
  | {
      state: "closed";
      by: EndedBy;
      code: number;
      reason: string;
      message?: string;
      until?: number;
      error: ChatError;
    }
>;

/** Why a client is out of a room; by `forbidden` a new token is meant. */
export type LeftReason = "kicked" | "banned" | "forbidden";

/** Why a server ends a connection: it shuts down; it moves the client to another; the application wants it (earlier
 *  servers say `kicked`); the user is banned; the token has expired. */
export type GoodbyeReason = "shutdown" | "rebalance" | "disconnected" | "kicked" | "banned" | "token_expired";

export type Presence = Whole<
  | { room: string; event: "joined" | "left" | "renamed"; user: User }
  | { room: string; event: "count"; count: number }
>;

/** The details of events. They may have more members than these, such as the `type` and the `id` of a frame. */
export interface ChatEvents<Data = unknown> {
  state: StateChange;
  /** `rejoined`: after a reconnect, or to repair a hole. New ones of `messages` are `message` events as well. */
  joined: Joined<Data> & { rejoined: boolean };
  message: Message<Data>;
  presence: Presence;
  typing: { room: string; user: User; typing: boolean };
  /** A new token lets the user do something else in a room. */
  capabilities: { room: string; can: Capability[] };
  direct: { user: User; message: string; data?: Data; at: number };
  /** A message that this client sent with `direct` was dropped: one of the recipient's
   *  connections did not read fast enough. `to` is the recipient's id. */
  undelivered: { to: string; session: string; id?: number };
  /** The messages of a room up to `offset` are lost for good. In a room without history
   *  there is no position, and it is only possible that some were. */
  gap: { room: string; epoch?: string; offset?: number };
  /** The server removed the client from a room, which it does not join again by itself. `reason` is absent if
   *  the application's server made the user leave. `message` is the moderator's; `until` the end of a ban, in
   *  milliseconds since 1970. A later server may send further reasons: a `switch` needs a default. */
  left: { room: string; reason?: LeftReason; message?: string; until?: number };
  /** A send was refused for a reason that passes, and is tried again by itself. */
  delayed: { room: string; key: string; error: ChatError };
  /** A room could not be joined again; the client is no longer in it. */
  refused: { room: string; error: ChatError };
  /** The server is about to end the connection. `message` is the moderator's. A later server may send further
   *  reasons: a `switch` needs a default, and `reconnect` decides. */
  goodbye: { reason: GoodbyeReason; reconnect: boolean; after_ms: number; message?: string; until?: number };
  /** An error of the server that answers no request. */
  error: ChatError;
}

/** The codes of the server; docs/protocol.md describes them. */
export type ServerErrorCode =
  | "bad_json"
  | "unknown_type"
  | "missing_field"
  | "bad_field"
  | "room_name_invalid"
  | "not_in_room"
  | "too_many_rooms"
  | "too_many_bans"
  | "message_too_long"
  | "rate_limited"
  | "unauthorized"
  | "forbidden"
  | "banned"
  | "rejected"
  | "hook_unavailable"
  | "broker_unavailable"
  | "history_disabled"
  | "unsupported"
  | "internal";

/**
 * The client's own codes:
 * - `offline`: no connection; not sent
 * - `disconnected`: the connection was lost before the answer
 * - `outcome_unknown`: of a send: a server may have accepted it; after any other error it was not
 * - `timeout`: no answer in time
 * - `queue_full`: too many sends or requests wait; not sent
 * - `too_large`: the frame is above the limit
 * - `other_user`: of a send: the next token is another user's; not sent
 * - `kicked`: a moderator removed the user from the room, or from the server
 * - `closed`: the client is closed
 */
export type ClientErrorCode =
  | "offline"
  | "disconnected"
  | "outcome_unknown"
  | "timeout"
  | "queue_full"
  | "too_large"
  | "other_user"
  | "kicked"
  | "closed";

export type ErrorCode = ServerErrorCode | ClientErrorCode;

/**
 * What the promises of a client are rejected with. A promise that is dropped rejects without notice.
 *
 * `message_too_long`, `room_name_invalid` and, for `data` that JSON cannot hold, `bad_field` may
 * also be errors of the client itself, before anything is sent. A later server may send further
 * codes: a `switch` over `code` needs a default.
 */
export class ChatError extends Error {
  constructor(
    code: ErrorCode,
    message?: string,
    more?: {
      retryAfterMs?: number | undefined;
      until?: number | undefined;
      reason?: string | undefined;
      key?: string | undefined;
    },
  );
  readonly code: ErrorCode;
  /** When to try again. */
  readonly retryAfterMs?: number;
  /** Of `banned`: when the ban ends, in milliseconds since 1970; absent if it has no end. */
  readonly until?: number;
  /** Of `kicked` and `banned`: the moderator's words, if there are any. */
  readonly reason?: string;
  /** Of a send: try again with the same key, and it is not delivered twice. */
  readonly key?: string;
  /** All of these, for a log. */
  toJSON(): Pick<this, "code" | "message" | "retryAfterMs" | "until" | "reason" | "key">;
}

/** The token function throws it when the user has no access any more: the client is closed. */
export class Unauthorized extends ChatError {
  constructor(message?: string);
}

/** What `addEventListener` of any runtime takes, whether its types have a DOM or not. */
type Listener = Parameters<EventTarget["addEventListener"]>[1];
type ListenerOptions = Parameters<EventTarget["addEventListener"]>[2];

/** Handlers of events, by their details. */
export interface Emitter<Events> extends EventTarget {
  /** Calls `handler` with the detail of each event; returns a function that removes the handler.
   *  Throws a `TypeError` if `handler` is no function. A handler that is given twice for a type is
   *  called once, and one `off` removes it. */
  on<K extends keyof Events>(
    type: K,
    handler: (detail: Events[K]) => void,
    options?: { signal?: AbortSignal | undefined; once?: boolean | undefined },
  ): () => void;
  /** Calls `handler` with the next event only. */
  once<K extends keyof Events>(
    type: K,
    handler: (detail: Events[K]) => void,
    options?: { signal?: AbortSignal | undefined },
  ): () => void;
  off<K extends keyof Events>(type: K, handler: (detail: Events[K]) => void): void;
  addEventListener<K extends keyof Events & string>(
    type: K,
    listener: (event: CustomEvent<Events[K]>) => void,
    options?: ListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: Listener,
    options?: ListenerOptions,
  ): void;
}

export type Token = string | null | undefined;

/** Times are in milliseconds. The constructor throws a `TypeError` for one that is no number from 0
 *  on; larger ones than 2,147,483,647, `Infinity` too, count as that. */
export interface ChatOptions {
  /** The user's name. Without one the server makes one up. */
  name?: string | undefined;
  /** `resume` of an earlier client: be the same user. */
  resume?: string | undefined;
  /** A token, or what gives one: asked before each connection, and before a token runs out. If
   *  it fails, or takes longer than `tokenTimeoutMs`, it is asked again later. If it throws
   *  `Unauthorized`, or gives nothing, the user has no access any more: the client is `closed`. */
  token?: string | (() => Token | Promise<Token>) | undefined;
  /** The WebSocket class, where the runtime has none of its own. */
  WebSocket?: (new (url: string, protocols?: string | string[]) => unknown) | undefined;
  /** Sends that may wait to be sent, or for an answer, in all rooms. Default 20,000. */
  queueLimit?: number | undefined;
  /** Bytes of their frames, at which no further send is taken. Default 16 MiB. */
  queueBytes?: number | undefined;
  /** How long a send may take with all that it is tried again, from its first attempt; before
   *  that, how long it may wait without a connection, or without any message of its room being
   *  answered. The time that it waits for its turn at the server's rates does not count.
   *  Default 30,000; the server recognizes repeated keys for five minutes. */
  sendTimeoutMs?: number | undefined;
  /** How long the token function may take before it is called again. Default 120,000. */
  tokenTimeoutMs?: number | undefined;
  /** From when a request is sent. A join without an answer is then repeated, as long as the room is
   *  not left, after a pause of 1 to 2 s. Default 15,000. */
  requestTimeoutMs?: number | undefined;
  /** From the first byte to the welcome, without the time that a token takes before.
   *  Default 10,000. */
  connectTimeoutMs?: number | undefined;
  /** The first pause before a reconnect is a random one below this. Default 500. */
  backoffBaseMs?: number | undefined;
  /** No pause is longer. Default 20,000. */
  backoffCapMs?: number | undefined;
  /** Silence after which the client pings the server. Default 25,000. */
  pingAfterMs?: number | undefined;
  /** How long the server may take to answer the ping. Default 10,000. */
  pongTimeoutMs?: number | undefined;
  /** The same for a `check()`; and how long a request may be unanswered in silence before the
   *  client pings the server, and then for the ping. After a connection that was abandoned so, the
   *  next ping may take twice as long, up to eight times, until all is answered. Default 5,000. */
  checkTimeoutMs?: number | undefined;
  /** One line for each event, with its detail: `true` for `console.debug`, or a function. Off by
   *  default; the details contain the texts of messages. It must not throw. */
  debug?: boolean | ((line: string) => void) | undefined;
}

export interface ChatClient<Data = unknown> extends Emitter<ChatEvents<Data>> {}

/** `Data`: what the application sends as `data` of messages. */
export class ChatClient<Data = unknown> {
  /** The version of the package. */
  static readonly version: string;

  /** `url`: `wss://HOST/ws`. Nothing is connected before `connect()`. */
  constructor(url: string | URL, options?: ChatOptions);

  readonly state: State;
  /** The detail of the latest `state` event; the same object until the next one. */
  readonly status: StateChange;
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

  /** Connects; in state `waiting`, at once. Resolves once welcome, and rejects with `timeout` after
   *  `sendTimeoutMs` without; attempts go on then. After `close()` it begins again, and joins the
   *  rooms that the client was in. */
  connect(): Promise<Welcome>;
  /** Ends the connection for good. What is called afterwards is rejected with `closed` at once, but
   *  for `connect()`, and for `leave()`, which has nothing left to do. The user leaves all rooms at
   *  once; do not wait for `leave()` before, which a dead line does not answer. */
  close(): void;
  /** Pings the server at once, and abandons the connection without an answer; in
   *  state `waiting`, connects. If an attempt is under way and fails, the next one follows without a
   *  pause. Browsers do this by themselves when the network changes and when
   *  the page is seen again; elsewhere call it when the device wakes. */
  check(): void;
  /** Asks for another token at once, and gives it to the server on the same connection: call it when the rights or
   *  the name of the user have changed. A token for which the client has asked before is followed by another one.
   *  Without a connection the next one has another token. It does nothing where `token` is no function. */
  renew(): void;
  /** Takes another name, which costs a new connection. Beside a token it changes nothing: the
   *  token has the name. Rejects with `bad_field` for a name that a user cannot have. */
  rename(name: string): Promise<Welcome>;

  /** Joins a room: now, or once connected, and again after each reconnect. `history`: how
   *  many of the latest messages to bring. `since`: a position that an earlier client saved; the
   *  messages after it are `message` events, after a `gap` if some are lost; if the room cannot
   *  continue there, only the latest 256 follow, and `history()` has those before. Beside a position the option `history`
   *  does not count; without one, where `since` is undefined, it does. Joins are not counted: one `leave` ends them all. */
  join(
    room: string,
    options?: { history?: number | undefined; since?: Position | undefined },
  ): Promise<Joined<Data>>;
  /** Leaves a room, for all parts of the application that have joined it with this client. */
  leave(room: string): Promise<void>;

  /** A room as it is to be shown. Each caller gets a handle of its own on the same room, which joins
   *  with the first and leaves once the last is released and its messages are sent. Throws a
   *  `TypeError` if `name` is no string. `history`: how many of the latest messages to bring (50).
   *  `keep`: above how many, one at least, a new message drops the oldest (20,000); more if `history` has loaded
   *  more. The first caller's options count. A room that is taken again has the messages that failed
   *  there: the client keeps the latest 200 of rooms without a handle. Do not `join` or `leave` the
   *  same room beside it. */
  room(name: string, options?: { history?: number | undefined; keep?: number | undefined }): RoomHandle<Data>;

  /** Resolves once the server has taken the message. The promise has the message's `key`. The messages of a room go in order,
   *  each once, at the server's rates, over errors that pass and new connections; see
   *  `sendTimeoutMs`. Rejects with `outcome_unknown` if a server may have taken it: after any other
   *  error it was not taken. Rejects with `queue_full` if `isFull`: await a send before that. */
  send(
    room: string,
    message: string,
    options?: { data?: Data | undefined; key?: string | undefined },
  ): Promise<Sent> & { readonly key: string };
  /** `delivered`: how many servers hold the user; 0: offline. See the event `undelivered`. */
  direct(to: string, message: string, options?: { data?: Data | undefined }): Promise<{ delivered: number }>;
  /** Throttled, and not sent while anything else waits to be, or by who may not send there; call it
   *  at each key stroke. */
  typing(room: string, typing: boolean): void;
  members(room: string): Promise<Members>;
  /** Messages before or after an offset, or the newest; at most `limit`, or 256. */
  history(
    room: string,
    options?: { before?: number | undefined; after?: number | undefined; limit?: number | undefined },
  ): Promise<History<Data>>;
  /** With the capability `moderate`: removes a user, by id, who may join again. Resolves once the server has stored
   *  it. One `kick`, `ban` or `unban` is unanswered at a time; further ones wait for their turn, at the server's
   *  rate. */
  kick(room: string, user: string, reason?: string): Promise<void>;
  /** Keeps a user out of the room, for `seconds` or until `unban`. Rejects with `bad_field` for any
   *  other option, and for a number in place of the options. */
  ban(room: string, user: string, options?: { seconds?: number | undefined; reason?: string | undefined }): Promise<void>;
  unban(room: string, user: string): Promise<void>;
}

/**
 * A message as it is to be shown. `id` names it in this list, the same from `sending` to `received`.
 * `state`:
 * - `received`: the room has it
 * - `sending`: it waits for the connection, its turn or the answer
 * - `delayed`: it was refused for a reason that passes, `error`, and is tried again by itself
 * - `sent`: the server has accepted it, and the room's own copy follows
 * - `failed`: `error` says why; `resend` or `discard` it. With another user it is dropped
 */
export type ShownMessage<Data = unknown> = {
  id: number;
  /** Of a message that was sent before the first `welcome`, until then: `id` and `color` are empty,
   *  and `name` is that of the options. */
  user: User;
  message: string;
  data?: Data;
  /** Milliseconds since 1970; of one that is not received yet, by the clock of the device. */
  at: number;
  /** Whether it is of this client's user. */
  isOwn: boolean;
} & (
  | {
      state: "received";
      room: string;
      offset?: number;
      epoch?: string;
      key?: string;
      isAfterGap?: boolean;
      error?: undefined;
    }
  | (Unplaced & { state: "sending" | "sent"; key: string; error?: undefined })
  | (Unplaced & { state: "delayed" | "failed"; key: string; error: ChatError })
);

/** What a message does not have before the room has it. */
interface Unplaced {
  room?: undefined;
  offset?: undefined;
  epoch?: undefined;
  isAfterGap?: undefined;
}

export interface RoomSnapshot<Data = unknown> {
  /** `left`: removed, refused, the client is closed, or this handle was released; `error` says why.
   *  A join that is refused for a reason that passes stays `joining`, and is repeated. */
  readonly state: "joining" | "joined" | "left";
  /** Of `left`: `kicked`, `banned`, `forbidden` or another code; its `reason` has the moderator's
   *  words, and its `until` the end of a ban. Of a client that was closed, its error. */
  readonly error: ChatError | null;
  /** What the user may do in the room, if the server says so. */
  readonly can: readonly Capability[] | null;
  /** Oldest first, each once; those that the room has not sent back yet are the last. */
  readonly messages: readonly ShownMessage<Data>[];
  /** Whether `history()` may bring older messages; not in the state `left`. */
  readonly hasMore: boolean;
  /** Whether a page is being loaded. */
  readonly isLoading: boolean;
  readonly members: readonly User[];
  /** How many members there are; the list may be shorter. */
  readonly count: number;
  /** The other users who are typing. */
  readonly typists: readonly User[];
}

/** What has changed in a room. A `state` may change all lists. */
export type RoomChange<Data = unknown> = Whole<
  /** It was joined, joined again (`rejoined`), or left; or a new token has changed `can`. */
  | { what: "state"; rejoined?: boolean }
  /** A message was received. `isNew`: it was sent after the client joined. `dropped`: how many of
   *  the oldest messages were dropped for it, above `keep`. */
  | { what: "message"; message: ShownMessage<Data>; isNew: boolean; dropped: number }
  /** A page begins to load, has loaded `count` messages, or has failed. */
  | { what: "history"; count?: number }
  /** The state of a message of this client. */
  | { what: "pending"; key: string }
  /** Messages are permanently lost before the next one, which has `isAfterGap`. */
  | { what: "gap" }
  /** One member has joined, left or been renamed (`before` has the earlier name), or the list or
   *  the count is another. */
  | { what: "members"; event?: Presence["event"]; user?: User; before?: User }
  | { what: "typists" }
>;

/** A room as it is to be shown, by `ChatClient.room`. */
export interface RoomHandle<Data = unknown> extends Emitter<{ change: RoomChange<Data> }> {
  readonly name: string;
  /** The room at this moment; the same object until something changes. */
  readonly snapshot: RoomSnapshot<Data>;
  /** As `ChatClient.send`; the message is in `messages` at once. */
  send(
    message: string,
    options?: { data?: Data | undefined; key?: string | undefined },
  ): Promise<Sent> & { readonly key: string };
  /** Joins a room that was left, by all its handles; `history` begins again. It rejects for the
   *  reason that `snapshot.error` has then. A room that is not left is joined already. */
  join(): Promise<unknown>;
  /** Sends a message that has failed once more, under its key. */
  resend(key: string): Promise<Sent> & { readonly key: string };
  /** Removes a message that has failed. */
  discard(key: string): void;
  /** Loads the page before the oldest message, of 100 messages or `limit`; one at a time. */
  history(limit?: number): Promise<void>;
  /** As `ChatClient.typing`. */
  typing(typing: boolean): void;
  kick(user: string, reason?: string): Promise<void>;
  ban(user: string, options?: { seconds?: number | undefined; reason?: string | undefined }): Promise<void>;
  unban(user: string): Promise<void>;
  /** Ends the use of the room by this caller; once, and the handle shows `left` from then on. What is
   *  called on it before the room is left, in the next macrotask, is still carried out. */
  release(): void;
}
