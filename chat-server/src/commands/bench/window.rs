//! The messages of one sequence that a member has received.

/// The highest number so far, and which of the 64 up to it were seen.
#[derive(Clone, Copy, Default)]
pub(crate) struct Window {
    last: u32,
    seen: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    InOrder,
    Reordered,
    /// Seen before, or too old to know.
    Doubled,
}

impl Window {
    /// Records the message with this number; numbers begin at 1.
    pub(crate) fn note(&mut self, number: u32) -> Arrival {
        if number > self.last {
            let step = number - self.last;
            self.seen = if step < 64 { (self.seen << step) | 1 } else { 1 };
            self.last = number;
            return Arrival::InOrder;
        }
        let age = self.last - number;
        if age >= 64 || self.seen & (1 << age) != 0 {
            return Arrival::Doubled;
        }
        self.seen |= 1 << age;
        Arrival::Reordered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_and_reordering_are_counted() {
        let mut window = Window::default();
        let arrivals = [1, 2, 4, 3, 3, 4, 100, 40, 30].map(|number| window.note(number));
        use Arrival::{Doubled, InOrder, Reordered};
        let expected =
            [InOrder, InOrder, InOrder, Reordered, Doubled, Doubled, InOrder, Reordered, Doubled];
        assert_eq!(arrivals, expected);
    }
}
