//! Log lines of commands that go on for long: to stderr, as many as `GRANARY_LOG` says.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// What is logged unless `GRANARY_LOG` says otherwise. fuser takes for an error that the mount has
/// answered some requests by itself.
const USUAL: &str = "info,sled=warn,fuser=off";

/// Begins to log.
pub fn start() {
    let filter = EnvFilter::try_from_env("GRANARY_LOG").unwrap_or_else(|_| EnvFilter::new(USUAL));
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_env_filter(filter)
        .init();
}
