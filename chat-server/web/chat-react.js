// Hooks for React 18 and later. They join nothing while React renders: rooms are joined by the
// subscriptions of effects, so that a render on a server, or one that React discards, has no effect.

import {
  createContext,
  createElement,
  useCallback,
  useContext,
  useEffect,
  useInsertionEffect,
  useMemo,
  useSyncExternalStore,
} from "react";

import { EMPTY, roomUse } from "./chat-room-use.js";

const Context = createContext(null);

/** Provides a client, and connects it. The application that has made the client closes it. */
export function ChatProvider({ client, children }) {
  useEffect(() => {
    // The state says what failed.
    client.connect().catch(() => {});
  }, [client]);
  return createElement(Context.Provider, { value: client }, children);
}

/** The client of the nearest `ChatProvider`. */
export function useChat() {
  const client = useContext(Context);
  if (!client) throw new Error("There is no ChatProvider above.");
  return client;
}

const IDLE = Object.freeze({ state: "idle" });

/** The state of the connection: the detail of the latest `state` event. */
export function useConnection() {
  const client = useChat();
  const subscribe = useCallback((onChange) => client.on("state", onChange), [client]);
  return useSyncExternalStore(subscribe, () => client.status, () => IDLE);
}

/** A room: its snapshot, and what one does there. */
export function useRoom(name, { history, keep } = {}) {
  const { subscribe, snapshot, actions } = useRoomUse(name, history, keep);
  const shown = useSyncExternalStore(subscribe, snapshot, () => EMPTY);
  return useMemo(() => ({ ...shown, ...actions }), [shown, actions]);
}

/** The members of a room, and how many there are. Renders again only when they change. */
export function useMembers(name) {
  const { subscribe, snapshot } = useRoomUse(name);
  const members = useSyncExternalStore(subscribe, () => snapshot().members, () => EMPTY.members);
  const count = useSyncExternalStore(subscribe, () => snapshot().count, () => 0);
  return useMemo(() => ({ members, count }), [members, count]);
}

/** Who else is typing in a room, and the function to call at each key stroke. */
export function useTyping(name) {
  const { subscribe, snapshot, actions } = useRoomUse(name);
  const typists = useSyncExternalStore(subscribe, () => snapshot().typists, () => EMPTY.typists);
  return useMemo(() => ({ typists, typing: actions.typing }), [typists, actions]);
}

/** One component's use of a room. */
function useRoomUse(name, history, keep) {
  const client = useChat();
  const use = useMemo(() => roomUse(client, name), [client, name]);
  // These run before all other effects of a commit, and once under `StrictMode`.
  useInsertionEffect(() => use.mount(history, keep), [use, history, keep]);
  return use;
}
