/** Types of `chat-vue.js`. */

import type { MaybeRefOrGetter, Ref } from "vue";
import type { ChatClient, RoomHandle, RoomSnapshot, StateChange } from "./chat-client.js";

/** Provides a client to this component and those below, and connects it once this one is mounted.
 *  The application that has made the client closes it. */
export function provideChat(client: ChatClient<any>): void;

/** The client that this component or the nearest one above provides; throws without one. */
export function useChat<Data = unknown>(): ChatClient<Data>;

/** The state of the connection: the detail of the latest `state` event. */
export function useConnection(): Readonly<Ref<StateChange>>;

export type RoomActions<Data = unknown> = Pick<
  RoomHandle<Data>,
  "send" | "resend" | "discard" | "history" | "typing" | "kick" | "ban" | "unban" | "join"
>;

/** A ref of each member of a room's snapshot. */
export type RoomRefs<Data = unknown> = {
  readonly [Member in keyof RoomSnapshot<Data>]: Readonly<Ref<RoomSnapshot<Data>[Member]>>;
};

/** A room, joined while the component is mounted and not deactivated: refs of its snapshot, and what
 *  one does there. Of a name that changes, the actions are those of the room at the time of the
 *  call. `history`: how many of the latest messages to bring (50), `keep`: how many to hold (20,000);
 *  the first component that gives options decides. */
export function useRoom<Data = unknown>(
  name: MaybeRefOrGetter<string>,
  options?: { history?: number | undefined; keep?: number | undefined },
): RoomRefs<Data> & RoomActions<Data>;

/** The members of a room, and how many there are. */
export function useMembers(name: MaybeRefOrGetter<string>): Pick<RoomRefs, "members" | "count">;

/** Who else is typing in a room, and the function to call at each key stroke. */
export function useTyping(name: MaybeRefOrGetter<string>): Pick<RoomRefs, "typists"> & {
  typing: (typing: boolean) => void;
};
