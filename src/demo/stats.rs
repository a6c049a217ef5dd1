//! Counting answers, judging their spread, drawing it.

use std::collections::BTreeMap;

use super::http::HttpAnswer;

/// Answers by pod, and what went wrong.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    /// Answers by the pod that gave them.
    pub answers: BTreeMap<String, usize>,
    /// Requests without an answer.
    pub failed: usize,
    /// Why the first of them failed.
    pub first_failure: Option<String>,
}

impl Tally {
    /// Counts one request.
    pub(super) fn count(&mut self, result: anyhow::Result<HttpAnswer>) {
        match result {
            Ok(answer) => *self.answers.entry(answer.pod).or_default() += 1,
            Err(cause) => {
                self.failed += 1;
                self.first_failure.get_or_insert_with(|| format!("{cause:#}"));
            }
        }
    }

    /// Requests made.
    pub(super) fn requests(&self) -> usize {
        self.answers.values().sum::<usize>() + self.failed
    }

    /// The answers of each expected pod, in that order.
    pub(super) fn of(&self, pods: &[String]) -> Vec<usize> {
        pods.iter().map(|pod| self.answers.get(pod).copied().unwrap_or_default()).collect()
    }

    /// What is wrong with it, if anything: a failure, a pod that should not have been asked, or an uneven spread.
    pub(super) fn complaint(&self, pods: &[String]) -> Option<String> {
        if self.failed > 0 {
            let first = self.first_failure.as_deref().unwrap_or("no reason");
            return Some(format!("{} of {} requests failed: {first}", self.failed, self.requests()));
        }
        if let Some(stranger) = self.answers.keys().find(|pod| !pods.contains(pod)) {
            return Some(format!("{stranger} has answered, which is no endpoint"));
        }
        let counts = self.of(pods);
        let (seen, bound) = (chi_square(&counts), chi_square_bound(counts.len()));
        (seen > bound).then(|| format!("{counts:?} is no even spread: chi-square {seen:.1} is above {bound:.1}"))
    }
}

/// How far counts are from being equal.
fn chi_square(counts: &[usize]) -> f64 {
    let expected = counts.iter().sum::<usize>() as f64 / counts.len().max(1) as f64;
    if expected == 0.0 {
        return 0.0;
    }
    counts.iter().map(|count| (*count as f64 - expected).powi(2) / expected).sum()
}

/// What chi-square exceeds less than once in ten million runs when the choice is fair, after Wilson and Hilferty (whose
/// formula errs upwards that far out).
fn chi_square_bound(bins: usize) -> f64 {
    const Z: f64 = 5.2;
    if bins < 2 {
        return 0.0;
    }
    let freedom = (bins - 1) as f64;
    let spread = 2.0 / (9.0 * freedom);
    freedom * (1.0 - spread + Z * spread.sqrt()).powi(3)
}

/// A bar for `value`, `width` characters wide at `most`, in eighths of a character.
pub(super) fn bar(value: usize, most: usize, width: usize) -> String {
    const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (value * width * 8).checked_div(most).unwrap_or(0).min(width * 8);
    format!("{}{}", "█".repeat(eighths / 8), PARTS[eighths % 8])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(counts: &[usize]) -> (Tally, Vec<String>) {
        let pods: Vec<String> = (1..=counts.len()).map(|number| format!("pod-{number}")).collect();
        (Tally { answers: pods.iter().cloned().zip(counts.iter().copied()).collect(), ..Tally::default() }, pods)
    }

    #[test]
    fn bars_grow_by_eighths() {
        assert_eq!(bar(8, 8, 2), "██");
        assert_eq!(bar(4, 8, 2), "█");
        assert_eq!(bar(1, 16, 2), "▏");
        assert_eq!(bar(0, 8, 2), "");
        assert_eq!(bar(3, 0, 2), "");
        assert_eq!(bar(9, 8, 2), "██", "never wider than asked");
    }

    #[test]
    fn an_even_spread_is_accepted_and_a_skewed_one_is_not() {
        for fair in [[100, 95, 105], [88, 104, 108], [34, 33, 33]] {
            let (tally, pods) = tally(&fair);
            assert_eq!(tally.complaint(&pods), None);
        }
        for unfair in [[300, 0, 0], [150, 150, 0], [160, 70, 70]] {
            let (tally, pods) = tally(&unfair);
            assert!(tally.complaint(&pods).unwrap().contains("no even spread"));
        }
    }

    #[test]
    fn one_endpoint_gets_everything() {
        let (tally, pods) = tally(&[300]);
        assert_eq!(tally.complaint(&pods), None);
    }

    #[test]
    fn failures_and_strangers_are_reported() {
        let (mut tally, mut pods) = tally(&[100, 100]);
        pods.pop();
        assert!(tally.complaint(&pods).unwrap().contains("pod-2 has answered"));
        tally.count(Err(anyhow::anyhow!("connection refused")));
        assert!(tally.complaint(&pods).unwrap().contains("1 of 201 requests failed: connection refused"));
    }

    #[test]
    fn the_bound_is_a_little_above_the_exact_one() {
        // The quantiles at 1 - 1e-7 for 1, 2 and 4 degrees of freedom.
        for (bins, exact) in [(2, 28.4), (3, 32.2), (5, 38.2)] {
            let bound = chi_square_bound(bins);
            assert!(bound > exact && bound < 1.2 * exact, "{bins}: {bound}");
        }
    }
}
