//! The `granary` command.

mod commands;
mod data_dir;
mod failure;
mod progress;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A storehouse for Nix store paths.
#[derive(Parser)]
#[command(name = "granary", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the caches of a data directory over HTTP; makes the directory at the first start
    Serve(commands::serve::Serve),
    /// Make, unpack and look into NARs
    #[command(subcommand)]
    Nar(commands::nar::Nar),
    /// Look into the store of a data directory
    #[command(subcommand)]
    Store(commands::store::Store),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Serve(serve) => serve.run(),
        Command::Nar(nar) => nar.run(),
        Command::Store(store) => store.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.is_broken_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report();
            ExitCode::FAILURE
        }
    }
}
