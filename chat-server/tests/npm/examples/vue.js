import { onScopeDispose, shallowRef, toValue, watch } from "vue";

/** The state of the connection: `connection.value.state`. */
export function useConnection(client) {
  const connection = shallowRef(client.status);
  const end = client.on("state", (status) => (connection.value = status));
  onScopeDispose(end);
  return connection;
}

/** A room while the component lives, by a name that may change: a text, a ref or a getter.
 *  `snapshot.value.messages`, `room.value.send(text)`. */
export function useRoom(client, name, options) {
  const room = shallowRef();
  const snapshot = shallowRef();
  const enter = (current, _, onCleanup) => {
    const held = client.room(current, options);
    room.value = held;
    snapshot.value = held.snapshot;
    held.on("change", () => (snapshot.value = held.snapshot));
    onCleanup(() => held.release());
  };
  watch(() => toValue(name), enter, { immediate: true });
  return { room, snapshot };
}
