//! Whether the places that a store rests on answer at this moment.

use super::{Store, StoreError};

/// A place that a store rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Where the packs lie.
    Packs,
    /// The index.
    Index,
}

impl Place {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Packs, Self::Index];
}

/// A key that is looked for; whether anything has it does not matter.
const PROBE: &[u8] = b"m/health";

impl Store {
    /// Asks one of the places for something small, past every cache. Blocks, for seconds when the
    /// place does not answer.
    pub fn reach(&self, place: Place) -> Result<(), StoreError> {
        match place {
            Place::Packs => Ok(self.packs.backend().check()?),
            Place::Index => Ok(self.index.get(PROBE).map(drop)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;

    #[test]
    fn a_store_answers_for_its_index_and_notices_packs_that_are_gone() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Options::new(&mut |_| ())).unwrap();
        for place in Place::ALL {
            store.reach(place).unwrap();
        }
        std::fs::rename(dir.path().join("packs"), dir.path().join("elsewhere")).unwrap();
        assert!(store.reach(Place::Packs).is_err());
        store.reach(Place::Index).unwrap();
    }
}
