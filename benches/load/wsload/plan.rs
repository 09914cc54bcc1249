//! The server, the room and the recipients of each connection.

use std::collections::VecDeque;

use crate::args::Load as Args;

#[derive(Clone, Copy)]
pub enum Client {
    /// Of one room; with `probe`, messages are in flight until this member has them.
    Member {
        room: usize,
        probe: bool,
    },
    Publisher,
}

/// The messages of one publisher to one room, numbered from 1.
pub struct Route {
    pub publisher: usize,
    pub room: usize,
    /// Which of the room's routes this is.
    pub of_room: usize,
    /// The connection that sends.
    pub connection: usize,
    pub sent: u32,
    pub prefix: String,
    pub suffix: String,
    pub in_flight: VecDeque<InFlight>,
}

/// A message that some of the room's probes do not have yet.
pub struct InFlight {
    pub number: u32,
    pub missing: usize,
    pub sent_ns: u64,
}

/// Sends to its routes in turn.
#[derive(Default)]
pub struct Publisher {
    pub routes: Vec<usize>,
    pub next: usize,
    pub in_flight: usize,
}

#[derive(Clone, Default)]
pub struct Room {
    /// Connections of the members.
    pub members: Vec<usize>,
    pub probes: usize,
    pub routes: usize,
}

pub struct Plan {
    /// Each connection's server and client.
    pub clients: Vec<(usize, Client)>,
    pub rooms: Vec<Room>,
    pub routes: Vec<Route>,
    pub publishers: Vec<Publisher>,
}

impl Plan {
    pub fn new(args: &Args) -> Plan {
        let mut plan = Plan {
            clients: Vec::new(),
            rooms: vec![Room::default(); args.rooms],
            routes: Vec::new(),
            publishers: Vec::new(),
        };
        let servers = args.servers.len();
        if !args.dialect.members_publish() {
            let publishers = 0..args.publishers;
            plan.clients.extend(publishers.map(|index| (index % servers, Client::Publisher)));
        }
        for index in 0..args.members {
            let room = index % args.rooms;
            // The members of a room alternate over the servers, however many rooms there are.
            let server = (index / args.rooms + room) % servers;
            plan.rooms[room].members.push(plan.clients.len());
            plan.clients.push((server, Client::Member { room, probe: false }));
        }
        plan.choose_probes(args.probes);
        for publisher in 0..args.publishers {
            plan.add_publisher(args, publisher);
        }
        plan
    }

    /// Probes are spread evenly over a room's members, and the last one is among them.
    fn choose_probes(&mut self, probes: usize) {
        for room in &mut self.rooms {
            let members = room.members.len();
            room.probes = probes.clamp(1, members);
            for index in 1..=room.probes {
                let connection = room.members[index * members / room.probes - 1];
                if let Client::Member { probe, .. } = &mut self.clients[connection].1 {
                    *probe = true;
                }
            }
        }
    }

    fn add_publisher(&mut self, args: &Args, publisher: usize) {
        let mut routes = Vec::new();
        let first = publisher % args.rooms;
        for index in (first..args.rooms).step_by(args.publishers) {
            let room = &mut self.rooms[index];
            let connection = match args.dialect.members_publish() {
                true => room.members[room.routes % room.members.len()],
                false => publisher,
            };
            let (prefix, suffix) = args.dialect.envelope(index);
            routes.push(self.routes.len());
            self.routes.push(Route {
                publisher,
                room: index,
                of_room: room.routes,
                connection,
                sent: 0,
                prefix,
                suffix,
                in_flight: VecDeque::new(),
            });
            room.routes += 1;
        }
        self.publishers.push(Publisher { routes, ..Publisher::default() });
    }
}
