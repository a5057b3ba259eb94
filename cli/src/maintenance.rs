//! Work in the background of a server. Where several servers share one store, one of them does it.

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use narbridge::{Storehouse, StorehouseError};

/// How often there is a look for something to do. The first look is at the start.
const LOOK: Duration = Duration::from_secs(600);
/// Uploads of packs that are older than this will not be finished by anybody: one takes minutes.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// Works for as long as the storehouse is in use.
pub fn start(house: &Arc<Storehouse>) -> io::Result<()> {
    let house: Weak<Storehouse> = Arc::downgrade(house);
    let work = move || {
        while let Some(house) = house.upgrade() {
            if let Err(error) = look(&house) {
                tracing::warn!(%error, "work in the background has to wait");
            }
            drop(house);
            std::thread::sleep(LOOK);
        }
    };
    std::thread::Builder::new().name("maintenance".to_owned()).spawn(work).map(drop)
}

fn look(house: &Storehouse) -> Result<(), StorehouseError> {
    let Some(_alone) = house.store().try_exclusive("maintenance")? else {
        tracing::debug!("another server works in the background");
        return Ok(());
    };
    let removed = house.store().tidy(ABANDONED)?;
    if removed > 0 {
        tracing::info!(removed, "removed uploads that were never finished");
    }
    Ok(())
}
