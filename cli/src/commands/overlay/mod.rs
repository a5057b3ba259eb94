//! `granary overlay`: a command that sees a writable store on top of a cache's.
//!
//! Two processes: the one that was started, which stays outside, and itself again, inside a mount
//! namespace of its own, where it mounts and runs the command. What one leaves when it is killed the
//! other cleans up. The namespace is made by unshare(1), because a process with threads cannot make
//! one for itself without unsafe code, and one that becomes root of a user namespace not at all.

mod inside;
mod layer;
mod mounts;
mod nix;
mod orphans;
mod outside;
mod scratch;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::commands::mount::HowToMount;
use crate::failure::Failure;
use crate::lazy_cache::LazyArgs;

/// Options of `granary overlay`.
#[derive(Args)]
pub struct Overlay {
    /// Cache: `cache`, `server:cache`, `https://host/cache`, or the URL of any binary cache
    cache: String,
    #[command(flatten)]
    layer: LayerArgs,
    /// Show the paths of this machine's own store, too, so that its programs run
    #[arg(long)]
    host_store: bool,
    #[command(flatten)]
    lazy: LazyArgs,
    #[command(flatten)]
    how: HowToMount,
    /// Command to run
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
    /// The folder of the process outside
    #[arg(long, hide = true, value_name = "DIR", requires = "outside")]
    inside: Option<PathBuf>,
    /// The number of the process outside
    #[arg(long, hide = true, value_name = "PID", requires = "inside")]
    outside: Option<i32>,
}

/// Where what is written goes. By default it is removed when the command has ended.
#[derive(Args)]
#[group(multiple = false)]
struct LayerArgs {
    /// Go on with the layer in this folder, or begin one there, and keep it
    #[arg(long, value_name = "DIR")]
    upper: Option<PathBuf>,
    /// Begin a new layer in this folder, and keep it for --upper
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Write to memory
    #[arg(long)]
    tmpfs: bool,
}

impl Overlay {
    /// Runs the command, and says how it ended.
    pub fn run(self) -> Result<ExitCode, Failure> {
        match (self.inside.clone(), self.outside) {
            (Some(dir), Some(outside)) => inside::run(self, &dir, outside),
            _ => outside::run(),
        }
    }
}
