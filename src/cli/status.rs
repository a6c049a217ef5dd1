//! `portway status`: how the daemon is.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use super::table::Row;
use super::view::{DaemonArgs, NOT_OK, Output, ViewArgs, emit, number_of_seconds, print, print_whole};
use crate::admin::{Client, ClientError, KernelView, State, StatusReport, StatusRow};
use crate::config::GoDuration;
use crate::model::Family;
use crate::nftables::NftKernel;

/// Between two looks while something is waited for.
const PAUSE: Duration = Duration::from_millis(500);
/// What users write into objects, and what a node's settings lack, does not pass by waiting, and is no failure of the
/// daemon: whoever may create Services would decide about it.
const WRITTEN_BY_PEOPLE: [&str; 2] = ["objects", "settings"];

/// The flag of what waits until all is OK.
#[derive(Debug, Clone, Args)]
pub struct WaitArgs {
    /// Wait until all is OK, at most 5 minutes or the given time (30s, 2m)
    #[arg(long, value_name = "TIMEOUT", num_args = 0..=1, require_equals = true, default_missing_value = "5m",
          value_parser = duration, conflicts_with = "watch")]
    pub wait: Option<Duration>,
}

/// Flags of `status`.
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// Let `objects` and `settings` count for the exit code and for --wait, too
    #[arg(long)]
    pub strict: bool,
    /// Whether to wait.
    #[command(flatten)]
    pub patience: WaitArgs,
    /// Whom to ask.
    #[command(flatten)]
    pub daemon: DaemonArgs,
    /// How to print.
    #[command(flatten)]
    pub view: ViewArgs,
}

/// `30`, `30s`, `1m30s`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = number_of_seconds(text) {
        return Ok(Duration::from_secs_f64(seconds));
    }
    let duration: GoDuration = text.parse().map_err(|_| "want seconds, or a duration as 1m30s".to_owned())?;
    if duration.is_negative() { Err("want a time that is not negative".to_owned()) } else { Ok(duration.get()) }
}

pub(super) fn run(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    if let Some(limit) = args.patience.wait {
        return wait(args, limit);
    }
    args.view.repeat(|| {
        let report = report(&args.daemon.client())?;
        let is_fine = unmet(&report, args.strict).is_empty();
        Ok((text(&report, args.view.output)?, if is_fine { ExitCode::SUCCESS } else { NOT_OK.into() }))
    })
}

fn wait(args: &StatusArgs, limit: Duration) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    loop {
        let left = limit.saturating_sub(start.elapsed());
        let looked = report(&args.daemon.client().within(left.max(PAUSE)));
        let left = limit.saturating_sub(start.elapsed());
        match looked {
            Ok(report) => {
                let unmet = unmet(&report, args.strict);
                if unmet.is_empty() || left.is_zero() {
                    emit(&text(&report, args.view.output)?)?;
                }
                if unmet.is_empty() {
                    return Ok(ExitCode::SUCCESS);
                }
                if left.is_zero() {
                    eprintln!("portway: not OK after {limit:?}: {}", unmet.join(", "));
                    return Ok(NOT_OK.into());
                }
            }
            Err(cause) if cause.may_pass() && !left.is_zero() => {}
            Err(cause) => return Err(cause.into()),
        }
        std::thread::sleep(PAUSE.min(left));
    }
}

/// What is not OK.
pub(super) fn unmet(report: &StatusReport, strict: bool) -> Vec<&str> {
    let counts = |row: &&StatusRow| strict || !WRITTEN_BY_PEOPLE.contains(&row.subsystem.as_str());
    let rows = report.subsystems.iter().filter(counts).filter(|row| row.state != State::Ok);
    rows.map(|row| row.subsystem.as_str()).collect()
}

/// Without a daemon, what the kernel tells.
fn report(client: &Client) -> Result<StatusReport, ClientError> {
    match client.get("/status") {
        Err(cause) if cause.is_absent() => {
            let fields = json!({"answers": false});
            let daemon = StatusRow::new("daemon", State::Fail, cause.to_string()).with(fields);
            Ok(StatusReport::new(vec![daemon, in_kernel()]))
        }
        result => result,
    }
}

/// Without a daemon nothing keeps the tables right, but they stay in force.
fn in_kernel() -> StatusRow {
    let looked = NftKernel::open_to_read().and_then(|mut kernel| {
        let view = KernelView::read(&mut kernel)?;
        Ok((view, kernel.other_portway()?))
    });
    let (view, owner) = match looked {
        Ok((view, owner)) if view.families().next().is_some() => (view, owner),
        Ok(_) => return StatusRow::new("kernel", State::Fail, "no table of Portway"),
        Err(cause) => {
            let fields = json!({"error": cause.to_string()});
            return StatusRow::new("kernel", State::Fail, cause.to_string()).with(fields);
        }
    };
    let (frontends, tables) = (view.services().len(), view.families().map(Family::nft).collect::<Vec<_>>());
    let followed = match &owner {
        Some(owner) => format!("another process has the tables{owner}: ask it, with its own --admin-socket"),
        None => "kept up to date by nobody".to_owned(),
    };
    let detail = format!("{frontends} frontends in force ({}), {followed}", tables.join(", "));
    let owner = owner.as_deref().map(|owner| owner.trim().trim_matches(['(', ')']));
    StatusRow::new("kernel", State::Warn, detail).with(json!({"frontends": frontends, "owner": owner}))
}

fn text(report: &StatusReport, output: Output) -> anyhow::Result<String> {
    match output {
        Output::Table | Output::Wide => print(&report.subsystems, output),
        Output::Json | Output::Yaml => print_whole(report, output),
    }
}

impl Row for StatusRow {
    fn header(_: bool) -> Vec<&'static str> {
        vec!["SUBSYSTEM", "STATE", "DETAIL"]
    }

    fn cells(&self, _: bool) -> Vec<String> {
        vec![self.subsystem.clone(), self.state.to_string(), self.detail.clone()]
    }

    fn state(&self) -> Option<State> {
        Some(self.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_to_wait() {
        let seconds = |text| duration(text).map(|time| time.as_secs_f64()).ok();
        assert_eq!([seconds("30"), seconds("1m30s"), seconds("0.5")], [Some(30.0), Some(90.0), Some(0.5)]);
        assert_eq!([seconds("-1s"), seconds("soon"), seconds("nan"), seconds("")], [None; 4]);
    }

    #[test]
    fn what_people_wrote_counts_only_when_that_is_wanted() {
        let rows = [("daemon", State::Ok), ("source", State::Warn), ("objects", State::Warn), ("sync", State::Fail)];
        let report = StatusReport::new(rows.map(|(name, state)| StatusRow::new(name, state, "")).into());
        assert_eq!(report.state, State::Fail);
        assert_eq!(unmet(&report, false), ["source", "sync"]);
        assert_eq!(unmet(&report, true), ["source", "objects", "sync"]);
    }
}
