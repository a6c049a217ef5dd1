//! What is known of this process when somebody asks: `process_*` from /proc, threads, and tasks of tokio.

use std::collections::HashMap;
use std::fs;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::runtime::Handle;

/// USER_HZ, which is 100 on every architecture Linux shows to programs.
const TICKS_PER_SECOND: f64 = 100.0;

/// What the kernel says of this process; what it does not say is left out.
#[derive(Debug, Clone, Default)]
pub(super) struct Process {
    runtimes: Arc<Mutex<Vec<Handle>>>,
}

impl Process {
    /// Counts the tasks of a runtime too.
    pub(super) fn watch(&self, runtime: Handle) {
        self.runtimes.lock().unwrap_or_else(PoisonError::into_inner).push(runtime);
    }

    /// The tasks of all runtimes; none where there is no runtime.
    fn tasks(&self) -> Option<usize> {
        let runtimes = self.runtimes.lock().unwrap_or_else(PoisonError::into_inner);
        let tasks = runtimes.iter().map(|runtime| runtime.metrics().num_alive_tasks());
        (!runtimes.is_empty()).then(|| tasks.sum())
    }
}

#[derive(Debug, Default, PartialEq)]
struct Stat {
    cpu_seconds: f64,
    /// Since boot.
    start_seconds: f64,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let read = |path: &str| fs::read_to_string(path).ok();
        if let Some(stat) = read("/proc/self/stat").as_deref().and_then(parse_stat) {
            let cpu = ("process_cpu_seconds", "CPU time spent, in user and kernel mode, in seconds.");
            counter(&mut encoder, cpu, stat.cpu_seconds)?;
            if let Some(boot) = read("/proc/stat").as_deref().and_then(boot_time) {
                let start = ("process_start_time_seconds", "When the process started, in Unix time.");
                gauge(&mut encoder, start, boot + stat.start_seconds)?;
            }
        }
        let status = read("/proc/self/status").unwrap_or_default();
        if let Some(bytes) = kilobytes(&status, "VmRSS:") {
            gauge(&mut encoder, ("process_resident_memory_bytes", "Memory in RAM."), bytes)?;
        }
        if let Some(bytes) = kilobytes(&status, "VmSize:") {
            gauge(&mut encoder, ("process_virtual_memory_bytes", "Address space in use."), bytes)?;
        }
        if let Some(threads) = number(&status, "Threads:") {
            gauge(&mut encoder, ("portway_threads", "Threads of the process."), threads)?;
        }
        if let Some(tasks) = self.tasks() {
            let tasks = tasks as f64;
            gauge(&mut encoder, ("portway_tokio_tasks", "Tasks of the servers and of the watches."), tasks)?;
            // What kubernetes-mixin's dashboard and leak alerts of kube-proxy look at.
            gauge(&mut encoder, ("go_goroutines", "The same as portway_tokio_tasks, by kube-proxy's name."), tasks)?;
        }
        if let Ok(files) = fs::read_dir("/proc/self/fd") {
            // The listing itself is one of them.
            let open = files.count().saturating_sub(1);
            gauge(&mut encoder, ("process_open_fds", "Open file descriptors."), open as f64)?;
        }
        if let Some(max) = read("/proc/self/limits").as_deref().and_then(max_files) {
            gauge(&mut encoder, ("process_max_fds", "How many file descriptors may be open."), max)?;
        }
        let network = read("/proc/self/net/netstat").unwrap_or_default();
        let network = ip_octets(&network);
        if let Some(bytes) = network.get("InOctets") {
            let what = ("process_network_receive_bytes", "Bytes received in the network namespace.");
            counter(&mut encoder, what, *bytes)?;
        }
        if let Some(bytes) = network.get("OutOctets") {
            let what = ("process_network_transmit_bytes", "Bytes sent in the network namespace.");
            counter(&mut encoder, what, *bytes)?;
        }
        Ok(())
    }
}

fn counter(encoder: &mut DescriptorEncoder<'_>, (name, help): (&str, &str), value: f64) -> std::fmt::Result {
    let metric = ConstCounter::new(value);
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, (name, help): (&str, &str), value: f64) -> std::fmt::Result {
    let metric = ConstGauge::new(value);
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

/// proc(5): fields 14, 15 and 22. The name in field 2 may hold anything, also spaces and parentheses.
fn parse_stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.get(text.rfind(')')? + 1..)?.split_whitespace().collect();
    let ticks = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    Some(Stat {
        cpu_seconds: (ticks(14)? + ticks(15)?) / TICKS_PER_SECOND,
        start_seconds: ticks(22)? / TICKS_PER_SECOND,
    })
}

fn boot_time(stat: &str) -> Option<f64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

fn number(status: &str, field: &str) -> Option<f64> {
    status.lines().find_map(|line| line.strip_prefix(field))?.trim().trim_end_matches(" kB").parse().ok()
}

fn kilobytes(status: &str, field: &str) -> Option<f64> {
    number(status, field).map(|kilobytes| kilobytes * 1024.0)
}

fn max_files(limits: &str) -> Option<f64> {
    let soft = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?;
    soft.parse().ok()
}

/// The pair of lines `IpExt: names` and `IpExt: values`.
fn ip_octets(netstat: &str) -> HashMap<&str, f64> {
    let mut lines = netstat.lines().filter_map(|line| line.strip_prefix("IpExt:"));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let values = values.split_whitespace().map(|value| value.parse().unwrap_or_default());
    names.split_whitespace().zip(values).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 500 0 0 0 150 50 0 0 20 0 4 0 12345 1000 200 18446744073709551615";
        assert_eq!(parse_stat(stat), Some(Stat { cpu_seconds: 2.0, start_seconds: 123.45 }));
        assert_eq!(parse_stat("7 (a) S 1"), None);
        assert_eq!(boot_time("cpu 1 2\nbtime 1700000000\n"), Some(1_700_000_000.0));
        assert_eq!(kilobytes("VmSize:\t  10 kB\nVmRSS:\t   2 kB\n", "VmRSS:"), Some(2048.0));
        assert_eq!(number("Threads:\t7\n", "Threads:"), Some(7.0));
        let limits = "Limit  Soft  Hard  Units\nMax open files            1024                 4096     files\n";
        assert_eq!(max_files(limits), Some(1024.0));
        let netstat = "TcpExt: A\nTcpExt: 1\nIpExt: InNoRoutes InOctets OutOctets\nIpExt: 0 12 34\n";
        assert_eq!(ip_octets(netstat).get("OutOctets"), Some(&34.0));
    }
}
