import { readable } from "svelte/store";

/** The state of the connection: `$connection.state`. */
export function connectionStore(client) {
  return readable(client.status, (set) => {
    set(client.status);
    return client.on("state", set);
  });
}

/** A room while the store has subscribers: `$room.messages`; send with `client.send(name, text)`. */
export function roomStore(client, name, options) {
  return readable(undefined, (set) => {
    const room = client.room(name, options);
    set(room.snapshot);
    const end = room.on("change", () => set(room.snapshot));
    return () => {
      end();
      room.release();
    };
  });
}
