//! Fresh network namespaces.

use nix::sched::{CloneFlags, unshare};

/// Runs `f` in a network namespace of its own: a thread that leaves ours, whose sockets and child processes live there.
/// Needs root, and fails without.
pub fn in_netns<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("tests need root to make network namespaces");
            f()
        });
        match thread.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
