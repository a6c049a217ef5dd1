//! How fast Events may go to the API server.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Lets `burst` pass at once, and then one in each `interval`: `clientConnection.burst` and `.qps`.
#[derive(Debug, Clone)]
pub struct Rate {
    interval: Duration,
    burst: u32,
    /// When all that has passed would have passed one by one.
    paid: Option<Instant>,
}

impl Rate {
    /// Without `per_second` there is no limit; a burst of 0 is one of 1.
    pub fn new(per_second: Option<f64>, burst: u32) -> Self {
        let interval =
            per_second.map_or(Duration::ZERO, |rate| Duration::from_secs_f64((1.0 / rate).clamp(0.0, 3600.0)));
        Self { interval, burst: burst.max(1), paid: None }
    }

    /// Waits for a turn.
    pub(super) async fn turn(&mut self) {
        let now = Instant::now();
        let paid = self.paid.map_or(now, |paid| paid.max(now)) + self.interval;
        self.paid = Some(paid);
        if let Some(free) = paid.checked_sub(self.interval.saturating_mul(self.burst)) {
            sleep_until(free).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_burst_passes_at_once_and_the_rest_in_turn() {
        let mut rate = Rate::new(Some(0.001), 3);
        for _ in 0..3 {
            rate.turn().await;
        }
        let fourth = tokio::time::timeout(Duration::from_millis(50), rate.turn()).await;
        assert!(fourth.is_err(), "a quarter of an hour is not over");

        let mut rate = Rate::new(Some(50.0), 3);
        let start = Instant::now();
        for _ in 0..8 {
            rate.turn().await;
        }
        assert!(start.elapsed() >= Duration::from_millis(100), "five turns of 20 ms");

        let mut free = Rate::new(None, 0);
        for _ in 0..10_000 {
            free.turn().await;
        }
    }
}
