//! The `granary` command.

mod binary_cache;
mod clock;
mod commands;
mod data_dir;
mod failure;
mod foreground;
mod keep;
mod lazy_cache;
mod limits;
mod logging;
mod maintenance;
mod nix_socket;
mod nix_version;
mod output;
mod progress;
mod prompt;
mod remote;
mod scrubbing;
mod sd_notify;
mod server_config;
mod size;
mod store_place;
mod time;
mod watching;
mod work_bar;

use std::ffi::OsStr;
use std::process::ExitCode;

use clap::builder::Resettable;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use granary_api::duration;

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
    /// Remember a server and its token
    Login(commands::login::Login),
    /// Forget a server and its token
    Logout(commands::logout::Logout),
    /// Show whom the server takes you for, and what you may do
    Whoami(commands::whoami::Whoami),
    /// Push store paths with everything they need to a cache
    Push(commands::push::Push),
    /// Push what becomes valid in the Nix store, for as long as it runs
    WatchStore(commands::watch_store::WatchStore),
    /// Run a command, and push what becomes valid in the Nix store meanwhile
    WatchExec(commands::watch_exec::WatchExec),
    /// Fill, show and empty the queue of paths that watch-store pushes
    #[command(subcommand)]
    Queue(commands::queue::QueueCommand),
    /// Copy store paths from another binary cache to a cache
    Migrate(commands::migrate::Migrate),
    /// Show a cache's store paths as a file system, and fetch what is read
    Mount(commands::mount::Mount),
    /// Take a mount away, also one that was killed
    Umount(commands::umount::Umount),
    /// Answer Nix for a mounted cache, as its daemon would
    Daemon(commands::daemon::Daemon),
    /// Run a command with a writable store on top of a cache's, and fetch what is read
    Overlay(commands::overlay::Overlay),
    /// Make, list, change and destroy caches
    #[command(subcommand)]
    Cache(commands::cache::Cache),
    /// List, look into and delete the paths of a cache
    #[command(subcommand)]
    Path(commands::path::PathCommand),
    /// Keep paths from garbage collection, by name
    #[command(subcommand)]
    Pin(commands::pin::Pin),
    /// Let this machine's Nix get paths from a cache: nix.conf, and netrc for a private one
    Use(commands::use_cache::UseCache),
    /// Undo use
    Unuse(commands::use_cache::Unuse),
    /// Look for what keeps this machine's Nix from a server or a cache, and say what to do
    Doctor(commands::doctor::Doctor),
    /// Make, show and revoke tokens
    #[command(subcommand)]
    Token(commands::token::Token),
    /// Make, unpack and look into NARs
    #[command(subcommand)]
    Nar(commands::nar::Nar),
    /// Look into the store of a data directory
    #[command(subcommand)]
    Store(commands::store::Store),
    /// Check a store: its packs, its index, and every path of its caches
    Fsck(commands::fsck::Fsck),
    /// Give back what nothing needs any more: once, in a store or by its server
    Gc(Box<commands::gc::Gc>),
    /// Read every byte of a store, and let what is damaged count as missing
    Scrub(commands::scrub::Scrub),
    /// Copy a store to another place, verifying it on the way
    CopyStore(commands::copy_store::CopyStore),
    /// Write the completions for a shell to stdout
    Completions(commands::completions::Completions),
    /// Write the man pages to a folder
    Man(commands::man::Man),
}

/// Takes away the variables for options that are `empty`: that is what CI makes of what a job may
/// not see, and it is to count as nothing.
fn without_empty_variables(command: clap::Command, empty: fn(&OsStr) -> bool) -> clap::Command {
    command
        .mut_args(|arg| match arg.get_env().is_some_and(empty) {
            true => arg.env(Resettable::Reset),
            false => arg,
        })
        .mut_subcommands(|command| without_empty_variables(command, empty))
}

fn main() -> ExitCode {
    let empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    let matches = without_empty_variables(Cli::command(), empty);
    let arguments = commands::mount::arguments(std::env::args_os().collect());
    let matches = matches.get_matches_from(arguments);
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let result = match cli.command {
        Command::Serve(serve) => serve.run(),
        Command::Login(login) => login.run(),
        Command::Logout(logout) => logout.run(),
        Command::Whoami(whoami) => whoami.run(),
        Command::Push(push) => push.run(),
        Command::WatchStore(watch) => watch.run(),
        Command::WatchExec(watch) => match watch.run() {
            Ok(code) => return code,
            Err(failure) => Err(failure),
        },
        Command::Queue(queue) => queue.run(),
        Command::Migrate(migrate) => migrate.run(),
        Command::Mount(mount) => mount.run(),
        Command::Umount(umount) => umount.run(),
        Command::Daemon(daemon) => daemon.run(),
        Command::Overlay(overlay) => match overlay.run() {
            Ok(code) => return code,
            Err(failure) => Err(failure),
        },
        Command::Cache(cache) => cache.run(),
        Command::Path(path) => path.run(),
        Command::Pin(pin) => pin.run(),
        Command::Use(use_cache) => use_cache.run(),
        Command::Unuse(unuse) => unuse.run(),
        Command::Doctor(doctor) => doctor.run(),
        Command::Token(token) => token.run(),
        Command::Nar(nar) => nar.run(),
        Command::Store(store) => store.run(),
        Command::Fsck(fsck) => fsck.run(),
        Command::Gc(gc) => gc.run(),
        Command::Scrub(scrub) => scrub.run(),
        Command::CopyStore(copy) => copy.run(),
        Command::Completions(completions) => completions.run(Cli::command()),
        Command::Man(man) => man.run(Cli::command()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_variables_count_as_absent_for_every_command() {
        let variables = |empty| {
            let command = without_empty_variables(Cli::command(), empty);
            let push = command.find_subcommand("push").unwrap();
            push.get_arguments().filter(|arg| arg.get_env().is_some()).count()
        };
        assert_eq!(variables(|_| true), 0);
        assert_eq!(variables(|name| name != "GRANARY_PART_SIZE"), 1);
    }
}
