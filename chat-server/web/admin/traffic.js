// What has the most traffic on this server.

import { bytes, linkToRoom, linkToUser, make, named, number, section, table } from "./elements.js";

const LISTED = 10;

/** Asks for the heaviest clients and rooms of the last minute. */
export async function readTraffic(api, signal) {
  const [{ connections }, { rooms }] = await Promise.all([
    api.get("/connections", { limit: LISTED }, signal),
    api.get("/rooms", { order: "traffic", limit: LISTED }, signal),
  ]);
  return { connections, rooms };
}

export function showTraffic({ connections, rooms }) {
  return make("div", { class: "halves" }, busyClients(connections), busyRooms(rooms));
}

function busyClients(connections) {
  const rows = connections.map(({ connection, user, name = user, address, frames, bytes: size }) => [
    named(
      user === undefined ? "not known yet" : linkToUser(user, name),
      name !== user && user,
      address ? `${address} · ${connection}` : connection,
    ),
    number(frames),
    bytes(size),
  ]);
  const columns = ["@Client", "#Frames/s", "#Bytes/s"];
  const list = table("busy-clients", columns, rows, "No client has sent much in the last minute.");
  return section("Clients that send the most", list);
}

function busyRooms(rooms) {
  const rows = rooms.map(({ room, traffic }) => [
    named(linkToRoom(room), `${number(traffic.messages)} messages/s, members here: ${number(traffic.members)}`),
    number(traffic.deliveries),
    bytes(traffic.bytes),
  ]);
  const columns = ["@Room", "#Deliveries/s", "#Bytes/s"];
  const list = table("busy-rooms", columns, rows, "No room has had much in the last minute.");
  return section("Rooms that receive the most", list);
}
