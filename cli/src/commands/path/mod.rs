//! `granary path …`

mod delete;
mod list;
mod named;
mod show;

use clap::Subcommand;

use crate::failure::Failure;

/// `granary path …`
#[derive(Subcommand)]
pub enum PathCommand {
    /// List the paths of a cache
    List(list::List),
    /// Show what a cache says of a path, and what that takes of the store
    Info(show::Info),
    /// Delete paths of a cache; what only they need is freed by garbage collection
    Delete(delete::Delete),
}

impl PathCommand {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        match self {
            Self::List(list) => list.run(),
            Self::Info(info) => info.run(),
            Self::Delete(delete) => delete.run(),
        }
    }
}

/// `1 path`, `2 paths`
pub fn counted(paths: u64) -> String {
    if paths == 1 { "1 path".to_owned() } else { format!("{paths} paths") }
}
