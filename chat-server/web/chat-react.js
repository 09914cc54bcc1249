// Hooks for React 18 and later. They join nothing while React renders: rooms are joined by the
// subscriptions of effects, so that a render on a server, or one that React discards, has no effect.

import { createContext, createElement, useCallback, useContext, useEffect, useMemo, useSyncExternalStore } from "react";

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
  if (!client) throw new Error("useChat and the other hooks need a ChatProvider above them.");
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
  const store = useRoomStore(name, history, keep);
  const snapshot = useSyncExternalStore(store.subscribe, store.snapshot, () => EMPTY);
  return useMemo(() => ({ ...snapshot, ...store.actions }), [snapshot, store]);
}

/** The members of a room, and how many there are. Renders again only when they change. */
export function useMembers(name) {
  const store = useRoomStore(name);
  const { subscribe, snapshot } = store;
  const members = useSyncExternalStore(subscribe, () => snapshot().members, () => EMPTY.members);
  const count = useSyncExternalStore(subscribe, () => snapshot().count, () => 0);
  return useMemo(() => ({ members, count }), [members, count]);
}

/** Who else is typing in a room, and the function to call at each key stroke. */
export function useTyping(name) {
  const { subscribe, snapshot, actions } = useRoomStore(name);
  const typists = useSyncExternalStore(subscribe, () => snapshot().typists, () => EMPTY.typists);
  return useMemo(() => ({ typists, typing: actions.typing }), [typists, actions]);
}

/** A room that is not joined yet. */
const EMPTY = Object.freeze({
  state: "joining",
  error: null,
  can: null,
  messages: [],
  hasMore: false,
  isLoading: false,
  members: [],
  count: 0,
  typists: [],
});

const ACTIONS = ["send", "resend", "discard", "history", "typing", "kick", "ban", "unban", "join"];

/** A room for `useSyncExternalStore`: held while something is subscribed. */
function useRoomStore(name, history, keep) {
  const client = useChat();
  return useMemo(() => roomStore(client, name, { history, keep }), [client, name, history, keep]);
}

function roomStore(client, name, options) {
  let room = null;
  const act = (action) => (...args) => {
    if (!room) throw new Error(`The room ${name} is not joined before the component is mounted.`);
    return room[action](...args);
  };
  return {
    subscribe(onChange) {
      const held = client.room(name, options);
      room = held;
      const end = held.on("change", () => onChange());
      return () => {
        end();
        held.release();
      };
    },
    snapshot: () => room?.snapshot ?? EMPTY,
    actions: Object.fromEntries(ACTIONS.map((action) => [action, act(action)])),
  };
}
