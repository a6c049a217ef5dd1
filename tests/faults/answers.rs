//! What the sync loop and the real kernel say to each other gets lost: `strace` has system calls of its thread fail.

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::churn::Churn;
use super::testbed::Testbed;

/// Has calls of the program's sync loop fail; returns once it is so.
fn tamper(pid: u32, calls: &str, record: &Path) -> Child {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let mut threads = tasks.map(|task| task.expect("readable").path());
    let is_sync = |task: &Path| std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "sync");
    let thread = threads.find(|task| is_sync(task)).expect("a thread for the sync loop");
    let number = thread.file_name().and_then(|name| name.to_str()).expect("a number");
    let (call, _) = calls.split_once(':').expect("what becomes of which call");
    let strace = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--", "strace", "-qq", "-p", number, "-o"])
        .arg(record)
        .args(["-e", "signal=none", "-e", &format!("trace={call}"), "-e", &format!("inject={calls}")])
        .spawn();
    let strace = strace.expect("setpriv (util-linux)");
    let (start, status) = (Instant::now(), thread.join("status"));
    while std::fs::read_to_string(&status).expect("it runs").contains("TracerPid:\t0\n") {
        assert!(start.elapsed() < Duration::from_secs(20), "strace does not begin");
        std::thread::sleep(Duration::from_millis(5));
    }
    strace
}

/// A call to the kernel cannot be cancelled, so the process ends without it, after the 5 s that the sync loop has.
#[test]
fn a_kernel_that_does_not_answer_does_not_keep_the_program_from_ending() {
    const LIMIT: Duration = Duration::from_secs(5);
    let mut testbed = Testbed::build(&[]);
    let mut churn = Churn::start(&mut testbed);
    let folder = tempfile::tempdir().expect("a folder");
    let record = folder.path().join("calls");
    // Longer than the test waits; `delay_enter` is in microseconds.
    let mut strace = tamper(testbed.pid(), "sendmsg:delay_enter=600000000", &record);
    testbed.wait("the sync loop is in a call", |testbed| {
        // Not every change has to be sent to the kernel.
        churn.change(testbed);
        match testbed.ask(&["status"]) {
            (said, _) if said.contains("the sync loop is busy") => Ok(()),
            (said, _) => Err(said),
        }
    });
    let begin = Instant::now();
    kill(Pid::from_raw(testbed.pid().cast_signed()), Signal::SIGTERM).expect("it runs");
    // What it logs last before it exits. A traced thread is not gone before strace has taken note, which waits for the delay.
    while !testbed.log().contains("does not end within 5s") {
        assert!(begin.elapsed() < LIMIT * 3, "it does not end\n{}", testbed.log());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(begin.elapsed() >= LIMIT, "after {:?}\n{}", begin.elapsed(), testbed.log());
    strace.kill().expect("it runs");
    strace.wait().expect("ended");
    let status = loop {
        if let Some(status) = testbed.ended() {
            break status;
        }
        assert!(begin.elapsed() < LIMIT * 4, "it does not end\n{}", testbed.log());
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(status.success(), "{status}\n{}", testbed.log());
}

#[test]
fn lost_answers_and_lost_questions_cost_nothing() {
    let mut testbed = Testbed::build(&[]);
    let mut churn = Churn::start(&mut testbed);
    let folder = tempfile::tempdir().expect("a folder");
    let record = folder.path().join("calls");
    for calls in [
        // The acknowledgement of a commit never arrives; then answers while the tables are read back do not either.
        "recvfrom:error=EAGAIN:when=1",
        "recvfrom:error=EAGAIN:when=1+150",
        "recvfrom:error=EAGAIN:when=1+20",
        "recvfrom:error=ENOBUFS:when=1+2",
        "recvfrom:error=ENOMEM:when=1+150",
        "sendmsg:error=ENOBUFS:when=1",
        "sendmsg:error=ENOMEM:when=1+20",
    ] {
        let mut strace = tamper(testbed.pid(), calls, &record);
        churn.change(&testbed);
        testbed.wait("a call has failed", |testbed| {
            let record = std::fs::read_to_string(&record).unwrap_or_default();
            let failed = record.lines().any(|line| line.ends_with("(INJECTED)"));
            if failed { Ok(()) } else { Err(format!("{calls}: {record}\n{}", testbed.log())) }
        });
        for _ in 0..3 {
            churn.chance.doze(100);
            churn.change(&testbed);
        }
        kill(Pid::from_raw(strace.id().cast_signed()), Signal::SIGTERM).expect("it runs");
        strace.wait().expect("ended");
        churn.settle(&mut testbed);
    }
    let log = testbed.log();
    for lost in ["committing a transaction", "reading"] {
        assert!(log.contains(&format!("lost touch with the kernel while {lost}")), "{lost}: {log}");
    }
    churn.probes.wait(200);
    churn.probes.finish().assert_good();
}
