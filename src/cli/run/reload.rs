//! Decides about a configuration file that has changed: whoever ends for a new one must be sure that it can start with it.

use anyhow::ensure;
use tokio::sync::watch;
use tracing::{info, warn};

use super::super::node::{self, NodeState};
use super::Source;
use crate::config::{Configuration, FileWatch, Options};
use crate::host;
use crate::metrics::Metrics;
use crate::model::Family;

/// Why the present content of the configuration file is not used; `None`: it is in use.
pub(super) type Refused = watch::Sender<Option<String>>;

/// Returns the path of the configuration file when it has another content that can be used (specification 1.7). One that
/// cannot is told, and left alone until the file changes again.
pub(super) async fn config_changed(
    configuration: &Configuration,
    families: &[Family],
    node: watch::Receiver<NodeState>,
    refused: Refused,
) -> String {
    let Some(file) = &configuration.file else { return std::future::pending().await };
    let path = file.path.display();
    let mut content = FileWatch::new(file);
    loop {
        let text = content.changed().await;
        if text == file.text.as_bytes() {
            if refused.send_replace(None).is_some() {
                info!("{path} has the running configuration again");
            }
            continue;
        }
        match try_out(configuration, families, &node).await {
            Ok(new) if new.file.as_ref().is_some_and(|file| file.text.as_bytes() == text) => return path.to_string(),
            // It has changed in between, which is noticed.
            Ok(_) => {}
            Err(cause) => {
                warn!(
                    "{path} was changed to something that cannot be used; the old configuration stays in force: {cause:#}"
                );
                refused.send_replace(Some(format!("{cause:#}")));
            }
        }
    }
}

/// Everything that could end a process that starts with the file as it is now.
async fn try_out(
    running: &Configuration,
    families: &[Family],
    node: &watch::Receiver<NodeState>,
) -> anyhow::Result<Configuration> {
    let new = running.load_again()?;
    let options = Options { families: families.to_vec(), ..new.options() };
    if let Some(ip) = options.bind_address {
        let family = Family::of(ip);
        ensure!(families.contains(&family), "bindAddress is {ip}, but this node does not serve {family}");
    }
    let state = node.borrow().clone();
    let misfits = node::misfits(&state, &new, &host::families());
    ensure!(misfits.is_empty(), "{}", misfits.join("; "));
    // Nothing is read, and no server asked. What it measures is of no interest.
    Source::open(&new, &options, &Metrics::new()).await?;
    Ok(new)
}
