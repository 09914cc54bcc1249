// What has the most traffic on this server.

import { settled } from "./api.js";
import { bytes, linkToRoom, linkToUser, make, muted, named, number, section, table, update } from "./elements.js";

const LISTED = 10;

/** The heaviest clients and rooms of the last minute, each in a list of its own: one that cannot be read, as the rooms
 *  by a key without the scope `read`, leaves the other. */
export class Traffic {
  #api;
  #mayRead;
  #clients = make("div");
  #rooms = make("div");
  element = make("div", { class: "halves" }, section("Clients that send the most", this.#clients), section("Rooms that receive the most", this.#rooms));

  constructor(api, mayRead) {
    this.#api = api;
    this.#mayRead = mayRead;
    if (!mayRead) this.#rooms.append(muted("The list of rooms needs a key with the scope read as well."));
  }

  update(signal) {
    return settled([this.#showClients(signal), ...(this.#mayRead ? [this.#showRooms(signal)] : [])]);
  }

  async #showClients(signal) {
    const { connections } = await this.#api.get("/connections", { limit: LISTED }, signal);
    update(this.#clients, connections, busyClients);
  }

  async #showRooms(signal) {
    const { rooms } = await this.#api.get("/rooms", { order: "traffic", limit: LISTED }, signal);
    update(this.#rooms, rooms, busyRooms);
  }
}

function busyClients(connections) {
  const rows = connections.map(({ connection, user, name = user, ended, address, frames, bytes: size }) => [
    named(
      user === undefined ? (ended ? "ended" : "not known yet") : linkToUser(user, name),
      name !== user && user,
      ended && user !== undefined && "ended",
      address ? `${address} · ${connection}` : connection,
    ),
    number(frames),
    bytes(size),
  ]);
  const columns = ["@Client", "#Frames/s", "#Bytes/s"];
  return table("busy-clients", columns, rows, "No client has sent much in the last minute.");
}

function busyRooms(rooms) {
  const rows = rooms.map(({ room, traffic }) => [
    named(linkToRoom(room), `${number(traffic.messages)} messages/s, members here: ${number(traffic.members)}`),
    number(traffic.deliveries),
    bytes(traffic.bytes),
  ]);
  const columns = ["@Room", "#Deliveries/s", "#Bytes/s"];
  return table("busy-rooms", columns, rows, "No room has had much in the last minute.");
}
