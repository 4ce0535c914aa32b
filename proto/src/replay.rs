//! Numbers that may each be used once, in any order: stream ids of a channel, link numbers of a session.

/// How far behind the highest number seen an unused one is still taken.
pub const WINDOW: u64 = 1 << 16;

/// Remembers which of the last [`WINDOW`] numbers were used; 8 KiB once more than a few are.
#[derive(Debug, Clone, Default)]
pub struct OnceWindow {
    /// One above the highest number seen.
    next: u64,
    /// One bit a number, at `number % WINDOW`; grown as far as numbers have come.
    used: Vec<u64>,
}

/// Why a number is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotOnce {
    #[error("the number was used before")]
    Used,
    #[error("the number is too old to know whether it was used")]
    TooOld,
}

impl OnceWindow {
    /// Takes `number`, once.
    ///
    /// # Errors
    /// [`NotOnce`].
    pub fn take(&mut self, number: u64) -> Result<(), NotOnce> {
        if number == u64::MAX {
            return Err(NotOnce::TooOld);
        }
        if number >= self.next {
            // What falls out of the window is forgotten, so its bits are free for the numbers that enter it.
            if number - self.next >= WINDOW {
                self.used.clear();
            } else {
                (self.next..number).for_each(|passed| self.set(passed, false));
            }
            self.set(number, true);
            self.next = number + 1;
            return Ok(());
        }
        if self.next - number > WINDOW {
            return Err(NotOnce::TooOld);
        }
        if self.is_used(number) {
            return Err(NotOnce::Used);
        }
        self.set(number, true);
        Ok(())
    }

    fn place(number: u64) -> (usize, u64) {
        let bit = number % WINDOW;
        ((bit / 64) as usize, 1 << (bit % 64))
    }

    fn is_used(&self, number: u64) -> bool {
        let (word, bit) = Self::place(number);
        self.used.get(word).is_some_and(|used| used & bit != 0)
    }

    fn set(&mut self, number: u64, used: bool) {
        let (word, bit) = Self::place(number);
        if used && word >= self.used.len() {
            self.used.resize(word + 1, 0);
        }
        if let Some(place) = self.used.get_mut(word) {
            *place = if used { *place | bit } else { *place & !bit };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_number_once() {
        let mut window = OnceWindow::default();
        assert_eq!(window.take(5), Ok(()));
        assert_eq!(window.take(5), Err(NotOnce::Used));
        assert_eq!(window.take(3), Ok(()));
        assert_eq!(window.take(WINDOW + 5), Ok(()));
        assert_eq!(window.take(4), Err(NotOnce::TooOld));
        assert_eq!(window.take(5), Err(NotOnce::TooOld));
        assert_eq!(window.take(7), Ok(()));
        assert_eq!(window.take(u64::MAX - 1), Ok(()));
        assert_eq!(window.take(u64::MAX - 1), Err(NotOnce::Used));
        assert_eq!(window.take(u64::MAX), Err(NotOnce::TooOld), "the last number has no successor");
    }

    proptest! {
        #[test]
        fn never_twice(numbers in prop::collection::vec(prop_oneof![0..200u64, 0..200_000u64], 0..300)) {
            let (mut window, mut taken) = (OnceWindow::default(), BTreeSet::new());
            for number in numbers {
                if window.take(number).is_ok() {
                    prop_assert!(taken.insert(number), "{number} was taken twice");
                } else {
                    let highest = taken.last().copied().unwrap_or(0);
                    prop_assert!(taken.contains(&number) || number + WINDOW < highest + 1);
                }
            }
        }
    }
}
