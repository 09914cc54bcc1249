/** Types of `chat-react.js`. */

import type { ReactElement, ReactNode } from "react";
import type { ChatClient, RoomHandle, RoomSnapshot, StateChange, User } from "./chat-client.js";

/** Provides a client, and connects it. The application that has made the client closes it. */
export function ChatProvider(props: { client: ChatClient<any>; children?: ReactNode | undefined }): ReactElement;

/** The client of the nearest `ChatProvider`; throws without one. */
export function useChat<Data = unknown>(): ChatClient<Data>;

/** The state of the connection: the detail of the latest `state` event. */
export function useConnection(): StateChange;

export type RoomActions<Data = unknown> = Pick<
  RoomHandle<Data>,
  "send" | "resend" | "discard" | "history" | "typing" | "kick" | "ban" | "unban" | "join"
>;

/** A room, joined while the component is mounted: its snapshot, and what one does there.
 *  `history`: how many of the latest messages to bring (50), `keep`: how many to
 *  hold (20,000); the first component that gives options decides. Actions may be called in every
 *  effect and handler. Do not call them while React renders: before the first mount they throw, and
 *  later each render would carry them out. */
export function useRoom<Data = unknown>(
  name: string,
  options?: { history?: number | undefined; keep?: number | undefined },
): RoomSnapshot<Data> & RoomActions<Data>;

/** The members of a room, and how many there are. Renders again only when they change. */
export function useMembers(name: string): { members: readonly User[]; count: number };

/** Who else is typing in a room, and the function to call at each key stroke. */
export function useTyping(name: string): {
  typists: readonly User[];
  typing: (typing: boolean) => void;
};
