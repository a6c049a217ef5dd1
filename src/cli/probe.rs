//! What runs in the pods of `portway test`: a server that says who it is and who asked, and a client that tries what it is told
//! and says what happened. Both are this program, so that no image of somebody else is needed.

mod ask;
mod serve;

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

/// The command of the pods.
pub(super) const COMMAND: &str = "test-pod";

/// What a pod of `portway test` does.
#[derive(Debug, Clone, Args)]
pub struct TestPodArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: TestPodCommand,
}

/// Server, client, or nothing.
#[derive(Debug, Clone, Subcommand)]
pub enum TestPodCommand {
    /// Answer connections and datagrams with this name and the client's address
    Serve {
        /// The port, TCP and UDP
        #[arg(long)]
        port: u16,
        /// Who answers
        #[arg(long)]
        name: String,
    },
    /// Read a line with probes from standard input, print what they found
    Probe,
    /// Do nothing until told to stop
    Wait,
}

/// Something to be tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Probe {
    /// By this the answer is known again.
    pub(super) id: usize,
    /// What to try.
    pub(super) question: Question,
    /// How often, one after the other.
    pub(super) times: u32,
    /// No more once it was refused. Refusals are ICMP, of which a kernel sends a host one a second (`icmp_ratelimit`), and which
    /// a socket that is just sending does not hear.
    pub(super) until_refused: bool,
}

/// What to try.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Question {
    /// Connect, and read who answers.
    Tcp(SocketAddr),
    /// Send a datagram, and read who answers.
    Udp(SocketAddr),
    /// Look up the addresses of a name.
    Name(String),
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    /// Somebody answered.
    Answer(Greeting),
    /// The other side says that nobody listens.
    Refused,
    /// No answer in time.
    Silent,
    /// The addresses of the name.
    Addresses(Vec<IpAddr>),
    /// Anything else, for people.
    Error(String),
}

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Greeting {
    /// Who answers.
    pub(super) name: String,
    /// Whom it sees.
    pub(super) client: IpAddr,
}

/// The outcomes of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Found {
    /// Of the probe.
    pub(super) id: usize,
    /// One for each time.
    pub(super) outcomes: Vec<Outcome>,
}

pub(super) fn run(args: &TestPodArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match &args.command {
            TestPodCommand::Serve { port, name } => serve::run(*port, name).await?,
            TestPodCommand::Probe => ask::run().await?,
            TestPodCommand::Wait => serve::until_told_to_stop().await?,
        }
        Ok(ExitCode::SUCCESS)
    })
}
