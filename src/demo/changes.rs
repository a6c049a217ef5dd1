//! The steps in which the cluster changes while it is used.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use super::http::{self, HttpConnection};
use super::listing::ListingText;
use super::manifests::{self, DemoService};
use super::netns::Namespace;
use super::screen::millis;
use super::stats::Tally;
use super::steps::{Story, WEB, names, web};
use super::wiring::{Portway, TimedChange};

/// Services that come and go beside the one that is watched.
const OTHERS: usize = 1_000;
/// The file they are in.
const OTHERS_FILE: &str = "others.yaml";
/// How long the client in the background rests between two requests.
const REST: Duration = Duration::from_millis(1);
/// Connections to try before it counts that none was refused.
const REFUSAL_TRIES: usize = 4;

impl Story<'_> {
    /// Edits manifests, and shows how long each edit takes and what it does to traffic. Says how many Services there
    /// were at most, and with how many rules.
    pub(super) fn changes(&mut self, portway: &mut Portway) -> Result<(usize, usize)> {
        self.screen.heading("4. Changes are in the kernel within milliseconds, and no request is lost");
        let mut kept = self.keep_connection()?;
        let pod = kept.get()?.pod;
        let background = Background::start(&self.world.client)?;
        self.screen.row("", &self.screen.faint("file to kernel   within Portway   elements"));
        let mut spread = Vec::new();
        self.scale(portway, "3 to 5 endpoints", &[1, 2, 3, 4, 5], &mut spread)?;
        self.scale(portway, "5 to 2 endpoints", &[4, 5], &mut spread)?;
        self.timed(portway, "1,000 more Services", OTHERS_FILE, &others())?;
        let services = self.scale(portway, "2 to 3, among 1,002 Services", &[1, 2, 3], &mut spread)?;
        let during = background.end()?;
        let rules = ListingText::of(&self.world.node)?.rules();
        self.endpoints(portway, "3 to 0 endpoints", &[])?;
        self.refused()?;
        self.scale(portway, "0 to 3 endpoints", &[1, 2, 3], &mut spread)?;
        self.timed(portway, "1,000 Services go", OTHERS_FILE, "")?;
        self.screen.line("");
        let all = names(&[1, 2, 3, 4, 5]);
        self.screen.bar_heads(&format!("{} requests each after", self.requests), &all);
        for (label, tally) in spread {
            self.screen.bars(label, &tally, &all);
        }
        self.screen.line("");
        self.undisturbed(&during);
        self.survived(&mut kept, &pod);
        Ok((services, rules))
    }

    /// Gives the Service other endpoints; requests go to these and to no other. Says how many Services there are.
    fn scale(
        &mut self,
        portway: &mut Portway,
        label: &'static str,
        pods: &[usize],
        spread: &mut Vec<(&'static str, Tally)>,
    ) -> Result<usize> {
        let services = self.endpoints(portway, label, pods)?;
        spread.push((label, self.requests_to(web(0), &names(pods))?));
        Ok(services)
    }

    fn endpoints(&mut self, portway: &mut Portway, label: &str, pods: &[usize]) -> Result<usize> {
        let change = self.timed(portway, label, "web-endpoints.yaml", &manifests::slices(&WEB, pods))?;
        let services = change.report.services;
        self.changes.push(change);
        Ok(services)
    }

    fn timed(&mut self, portway: &mut Portway, label: &str, file: &str, text: &str) -> Result<TimedChange> {
        self.stop.check()?;
        let change = portway.committed(self.folder.put(file, text)?)?;
        let (total, own) = (millis(change.total), millis(change.report.latency));
        let elements = format!("+{} -{}", change.report.added, change.report.deleted);
        self.screen.row(label, &format!("{total:>14}   {own:>14}   {elements}"));
        Ok(change)
    }

    /// Without endpoints a client is told at once instead of being left to wait.
    fn refused(&mut self) -> Result<()> {
        // The ICMP answer to a SYN can be back before connect() has let go of its socket; the kernel then only notes it,
        // and the client waits for its next SYN. So a few are tried.
        let (outcome, took) = self.world.client.run(|| {
            let attempt = || {
                let start = Instant::now();
                (http::connects(web(0), Duration::from_secs(1)), start.elapsed())
            };
            let is_late =
                |outcome: &std::io::Result<()>| outcome.as_ref().is_err_and(|e| e.kind() == ErrorKind::TimedOut);
            let mut last = attempt();
            for _ in 1..REFUSAL_TRIES {
                if !is_late(&last.0) {
                    break;
                }
                last = attempt();
            }
            Ok(last)
        })?;
        match outcome {
            Err(cause) if cause.kind() == ErrorKind::ConnectionRefused => {
                self.screen.row("", &self.screen.faint(&format!("connection refused after {}", millis(took))));
            }
            other => self.complain(format!("without endpoints a connection is not refused: {other:?}")),
        }
        Ok(())
    }

    fn undisturbed(&mut self, during: &Tally) {
        let (requests, failed) = (during.requests(), during.failed);
        self.answered += requests - failed;
        let text = format!("{requests} from a client that asked all the time, {failed} failed");
        self.screen.row("requests meanwhile", &text);
        if let Some(first) = &during.first_failure {
            self.complain(format!("{failed} requests failed while the Service changed: {first}"));
        }
    }

    fn survived(&mut self, kept: &mut HttpConnection, pod: &str) {
        match kept.get() {
            Ok(answer) if answer.pod == pod => {
                self.answered += 1;
                self.screen.row("a connection from before", &format!("still open, still with {pod}"));
            }
            Ok(answer) => self.complain(format!("a connection has moved from {pod} to {}", answer.pod)),
            Err(cause) => self.complain(format!("a connection from before the changes is dead: {cause:#}")),
        }
    }
}

/// Many Services with three endpoints each, as one file.
fn others() -> String {
    let mut out = String::new();
    for number in 0..OTHERS {
        let high = u8::try_from(1 + number / 250).unwrap_or(u8::MAX);
        let low = u8::try_from(1 + number % 250).unwrap_or(u8::MAX);
        let name = format!("other-{number}");
        let ips = [IpAddr::V4(Ipv4Addr::new(10, 96, high, low))];
        let service = DemoService { name: &name, cluster_ips: &ips, ..DemoService::default() };
        out.push_str("---\n");
        out.push_str(&manifests::service(&service));
        out.push_str(&manifests::slices(&service, &[1, 2, 3]));
    }
    out
}

/// A client that asks all the time, from a thread of its own.
struct Background {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Tally>>>,
}

impl Background {
    fn start(client: &Namespace) -> Result<Self> {
        let end = Arc::new(AtomicBool::new(false));
        let told = end.clone();
        let thread = client.spawn(move || {
            let mut tally = Tally::default();
            while !told.load(Ordering::Relaxed) {
                tally.count(http::get(web(0)));
                std::thread::sleep(REST);
            }
            Ok(tally)
        })?;
        Ok(Self { end, thread: Some(thread) })
    }

    fn end(mut self) -> Result<Tally> {
        self.end.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("the client in the background has ended")?;
        thread.join().map_err(|_| anyhow!("the client in the background has panicked"))?
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_services_have_addresses_of_their_own() {
        let text = others();
        let mut ips: Vec<&str> = text.lines().filter(|line| line.starts_with("  clusterIP:")).collect();
        ips.sort_unstable();
        ips.dedup();
        assert_eq!(ips.len(), OTHERS);
        assert!(!text.contains("'10.96.0."), "apart from those of the demonstration");
    }
}
