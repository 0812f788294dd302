//! Exponential backoff with jitter: half of each pause is random, so that many edges do not retry at the same time.

/// The backoff state of one VM.
#[derive(Debug)]
pub struct Backoff {
    shortest_ms: u64,
    longest_ms: u64,
    failures: u32,
    jitter: u64,
}

impl Backoff {
    /// A backoff without failures; `seed` must differ between VMs. Times in milliseconds.
    pub fn new(shortest_ms: u64, longest_ms: u64, seed: u64) -> Self {
        Self { shortest_ms, longest_ms, failures: 0, jitter: seed | 1 }
    }

    /// The pause after one more failure, in milliseconds.
    pub fn after_failure(&mut self) -> u64 {
        let pause = self.shortest_ms.checked_shl(self.failures.min(16)).unwrap_or(self.longest_ms).min(self.longest_ms);
        self.failures = self.failures.saturating_add(1);
        self.draw(pause)
    }

    /// Resets the pause to the shortest, after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// A random time between half of `ms` and all of it.
    pub fn draw(&mut self, ms: u64) -> u64 {
        // xorshift64 (Marsaglia 2003).
        self.jitter ^= self.jitter << 13;
        self.jitter ^= self.jitter >> 7;
        self.jitter ^= self.jitter << 17;
        ms / 2 + self.jitter % (ms / 2 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_the_longest_and_reset_on_success() {
        let mut backoff = Backoff::new(50, 1000, 7);
        for whole in [50, 100, 200, 400, 800, 1000, 1000] {
            let pause = backoff.after_failure();
            assert!((whole / 2..=whole).contains(&pause), "{pause} of {whole}");
        }
        (0..100_000).for_each(|_| assert!(backoff.after_failure() <= 1000));
        backoff.reset();
        assert!(backoff.after_failure() <= 50);
    }

    #[test]
    fn two_vms_draw_different_jitter() {
        let draws = |seed| {
            let mut backoff = Backoff::new(50, 1000, seed);
            (0..20).map(|_| backoff.draw(5000)).collect::<Vec<_>>()
        };
        assert_ne!(draws(2), draws(4));
    }
}
