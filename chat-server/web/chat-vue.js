// Composables for Vue 3.4 and later. They join nothing before a component is mounted, so that a render
// on a server has no effect, and leave the room when it is unmounted or deactivated.

import {
  computed,
  getCurrentInstance,
  inject,
  onActivated,
  onBeforeMount,
  onDeactivated,
  onMounted,
  onScopeDispose,
  provide,
  shallowRef,
  toValue,
  watch,
} from "vue";

import { ACTIONS, EMPTY, roomUse } from "./chat-room-use.js";

const KEY = Symbol("roomcast");

/** The clients by the components that provide them, since a component does not inject from itself. */
const OWN = new WeakMap();

/** Provides a client to this component and those below, and connects it. The application that has
 *  made the client closes it. */
export function provideChat(client) {
  provide(KEY, client);
  OWN.set(getCurrentInstance(), client);
  // The state says what failed.
  onMounted(() => client.connect().catch(() => {}));
}

/** The client of the nearest `provideChat`. */
export function useChat() {
  const client = OWN.get(getCurrentInstance()) ?? inject(KEY, null);
  if (!client) throw new Error("There is no provideChat here or above.");
  return client;
}

/** The state of the connection: the detail of the latest `state` event. */
export function useConnection() {
  const client = useChat();
  const status = shallowRef(client.status);
  onMounted(() => {
    const show = () => (status.value = client.status);
    onScopeDispose(client.on("state", show));
    show();
  });
  return status;
}

/** A room: refs of its snapshot, and what one does there. */
export function useRoom(name, { history, keep } = {}) {
  const client = useChat();
  const current = computed(() => toValue(name));
  const use = computed(() => roomUse(client, current.value));
  const changes = shallowRef(0);
  const snapshot = computed(() => changes.value >= 0 && use.value.snapshot());
  const isShown = shallowRef(true);
  onBeforeMount(() => {
    // Synchronously: the options are there before any component holds another room.
    watch(use, ({ mount }, _, onCleanup) => onCleanup(mount(history, keep)), { immediate: true, flush: "sync" });
  });
  onMounted(() => {
    const subscribe = (shown, _, onCleanup) => {
      if (shown) onCleanup(shown.subscribe(() => (changes.value += 1)));
      changes.value += 1;
    };
    watch(() => isShown.value && use.value, subscribe, { immediate: true, flush: "post" });
  });
  onActivated(() => (isShown.value = true));
  onDeactivated(() => (isShown.value = false));
  const entries = (names, of) => Object.fromEntries(names.map((name) => [name, of(name)]));
  return {
    ...entries(Object.keys(EMPTY), (field) => computed(() => snapshot.value[field])),
    ...entries(ACTIONS, (action) => (...args) => use.value.actions[action](...args)),
  };
}

/** The members of a room, and how many there are. */
export function useMembers(name) {
  const { members, count } = useRoom(name);
  return { members, count };
}

/** Who else is typing in a room, and the function to call at each key stroke. */
export function useTyping(name) {
  const { typists, typing } = useRoom(name);
  return { typists, typing };
}
