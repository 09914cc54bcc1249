import { onScopeDispose, shallowRef } from "vue";

/** The state of the connection: `connection.value.state`. */
export function useConnection(client) {
  const connection = shallowRef(client.status);
  const end = client.on("state", (status) => (connection.value = status));
  onScopeDispose(end);
  return connection;
}

/** A room while the component lives: `snapshot.value.messages`, `room.send(text)`. */
export function useRoom(client, name, options) {
  const room = client.room(name, options);
  const snapshot = shallowRef(room.snapshot);
  const end = room.on("change", () => (snapshot.value = room.snapshot));
  onScopeDispose(() => {
    end();
    room.release();
  });
  return { room, snapshot };
}
