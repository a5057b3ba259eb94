//! Finding servers by name when the files that names are found with may depend on the servers.
//!
//! Where /nix/store is a lazy mount, `/etc/hosts` and what else the system's resolver reads may lie in
//! it. To read them a chunk may have to be fetched, from the very server whose address is wanted.
//! So the last answer is used at once, and a new one is looked for beside that; only the first
//! question waits.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// For how long an answer is used without another being looked for.
const FRESH: Duration = Duration::from_secs(60);

type Lookup = fn(&str) -> io::Result<Vec<SocketAddr>>;

/// A resolver that remembers.
#[derive(Clone)]
pub(super) struct Addresses {
    known: Arc<Mutex<HashMap<String, Known>>>,
    lookup: Lookup,
}

struct Known {
    addresses: Vec<SocketAddr>,
    since: Instant,
    /// Whether another answer is being looked for. It may take for ever, and it is the only one.
    looking: bool,
}

impl Addresses {
    /// A resolver that asks the system.
    pub fn new() -> Self {
        Self { known: Arc::default(), lookup: by_the_system }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was answered last, and whether it is time to look again, which whoever is told so has to
    /// do.
    fn remembered(&self, name: &str) -> Option<(Vec<SocketAddr>, bool)> {
        let mut known = self.known();
        let known = known.get_mut(name)?;
        let look = !known.looking && known.since.elapsed() >= FRESH;
        known.looking |= look;
        Some((known.addresses.clone(), look))
    }

    /// Asks, and remembers the answer. Blocks.
    fn look(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        let found = (self.lookup)(name);
        let mut known = self.known();
        if let Ok(addresses) = &found
            && !addresses.is_empty()
        {
            let (addresses, since) = (addresses.clone(), Instant::now());
            known.insert(name.to_owned(), Known { addresses, since, looking: false });
        } else if let Some(known) = known.get_mut(name) {
            // What is known is better than nothing.
            (known.since, known.looking) = (Instant::now(), false);
        }
        found
    }
}

fn by_the_system(name: &str) -> io::Result<Vec<SocketAddr>> {
    (name, 0).to_socket_addrs().map(Iterator::collect)
}

impl Resolve for Addresses {
    fn resolve(&self, name: Name) -> Resolving {
        let (addresses, name) = (self.clone(), name.as_str().to_owned());
        Box::pin(async move {
            let found = match addresses.remembered(&name) {
                Some((found, look)) => {
                    if look {
                        tokio::task::spawn_blocking(move || drop(addresses.look(&name)));
                    }
                    found
                }
                None => tokio::task::spawn_blocking(move || addresses.look(&name)).await??,
            };
            let found: Addrs = Box::new(found.into_iter());
            Ok(found)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_asked_for_once_and_then_beside_the_work() {
        fn local(_: &str) -> io::Result<Vec<SocketAddr>> {
            Ok(vec![([127, 0, 0, 1], 0).into()])
        }
        fn fails(_: &str) -> io::Result<Vec<SocketAddr>> {
            Err(io::ErrorKind::NotFound.into())
        }
        let mut addresses = Addresses { known: Arc::default(), lookup: local };
        assert!(addresses.remembered("host").is_none());
        let first = addresses.look("host").unwrap();
        assert_eq!(addresses.remembered("host"), Some((first.clone(), false)));
        if let Some(known) = addresses.known().get_mut("host") {
            known.since -= FRESH;
        }
        assert_eq!(addresses.remembered("host"), Some((first.clone(), true)));
        assert_eq!(addresses.remembered("host"), Some((first.clone(), false)), "one looks");
        addresses.lookup = fails;
        assert!(addresses.look("host").is_err());
        assert_eq!(addresses.remembered("host"), Some((first, false)), "it stays");
    }
}
