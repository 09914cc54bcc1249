//! Messages: the sender of the next one, and what is recorded when it arrives.

use crate::load::Load;
use crate::plan::{Client, InFlight};
use crate::window::Arrival;
use crate::wire::{self, Kind, Mark};

impl Load {
    /// Sends a message to each room with a member that has received none.
    pub fn greet(&mut self) {
        for route in 0..self.plan.routes.len() {
            let members = &self.plan.rooms[self.plan.routes[route].room].members;
            let all_reached = members.iter().all(|&member| self.connections[member].reached);
            if self.plan.routes[route].of_room == 0 && !all_reached {
                self.publish(route, Kind::Greeting);
            }
        }
        self.flush_dirty();
    }

    /// Open loop: the message that is due.
    pub fn send_due(&mut self, nth: usize) {
        self.publish_next(nth % self.plan.publishers.len());
        self.flush_dirty();
    }

    /// Closed loop: sends until every publisher has its window in flight.
    pub fn fill_windows(&mut self) {
        if !self.sending || self.args.rate.is_some() {
            return;
        }
        for publisher in 0..self.plan.publishers.len() {
            while self.plan.publishers[publisher].in_flight < self.args.window {
                self.plan.publishers[publisher].in_flight += 1;
                self.publish_next(publisher);
            }
        }
        self.flush_dirty();
    }

    fn publish_next(&mut self, publisher: usize) {
        let publisher = &mut self.plan.publishers[publisher];
        let route = publisher.routes[publisher.next];
        publisher.next = (publisher.next + 1) % publisher.routes.len();
        self.publish(route, Kind::Load);
    }

    fn publish(&mut self, index: usize, kind: Kind) {
        let sent_ns = self.now_ns();
        let mask = self.mask();
        let route = &mut self.plan.routes[index];
        let room = &self.plan.rooms[route.room];
        let mut number = 0;
        if kind == Kind::Load {
            route.sent += 1;
            number = route.sent;
            self.count.sent += 1;
            self.count.expected += room.members.len() as u64;
            if self.args.rate.is_none() {
                route.in_flight.push_back(InFlight { number, missing: room.probes, sent_ns });
            }
        }
        let mut text = route.prefix.clone().into_bytes();
        Mark { kind, route: index, number, sent_ns }.write(&mut text);
        text.resize(route.prefix.len() + self.args.payload.max(Mark::SIZE), b'x');
        text.extend(route.suffix.as_bytes());
        wire::write(self.connections[route.connection].socket.out(), wire::TEXT, &text, Some(mask));
        self.dirty.push(route.connection);
    }

    /// Sends what was written: one call for all messages of a connection.
    fn flush_dirty(&mut self) {
        while let Some(connection) = self.dirty.pop() {
            self.flush(connection);
        }
    }

    /// Closed loop: counts messages that are so late as lost, so that their windows continue.
    pub fn give_up_sent_before(&mut self, sent_ns: u64) {
        for route in &mut self.plan.routes {
            while route.in_flight.front().is_some_and(|message| message.sent_ns < sent_ns) {
                route.in_flight.pop_front();
                self.plan.publishers[route.publisher].in_flight -= 1;
                self.count.timeouts += 1;
            }
        }
    }

    /// A message of this run has reached a connection.
    pub fn delivered(&mut self, index: usize, mark: Mark, now_ns: u64) {
        let connection = &mut self.connections[index];
        let Client::Member { room, probe } = connection.client else { return };
        let Some(route) = self.plan.routes.get_mut(mark.route) else { return };
        if route.room != room {
            return; // It counts as lost where it was due.
        }
        if mark.kind == Kind::Greeting {
            self.reached += usize::from(!connection.reached);
            connection.reached = true;
            return;
        }
        match connection.windows[route.of_room].note(mark.number) {
            Arrival::InOrder => {}
            Arrival::Reordered => self.count.reordered += 1,
            Arrival::Doubled => {
                self.count.doubled += 1;
                return;
            }
        }
        self.count.delivered += 1;
        if self.measuring {
            self.latency_ns.record(now_ns.saturating_sub(mark.sent_ns));
        }
        if probe {
            let mut messages = route.in_flight.iter();
            if let Some(at) = messages.position(|message| message.number == mark.number) {
                route.in_flight[at].missing -= 1;
                if route.in_flight[at].missing == 0 {
                    route.in_flight.remove(at);
                    self.plan.publishers[route.publisher].in_flight -= 1;
                }
            }
        }
    }
}
