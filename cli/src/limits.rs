//! What the system lets a process have.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Lets this process open as many files as it may: a cache on disk is many.
pub fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the bound on open files stays as it is");
    }
}
