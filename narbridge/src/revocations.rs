//! Tokens that are void: one by its id, or all of a subject that were issued up to a time.
//!
//! They are facts, so they survive what facts survive, and all of them are in memory too, since
//! every request with a token asks. A revocation counts from when it is durable.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use castore::{Expected, Store, StoreError, Transaction};
use prost::Message;

use crate::records::{RecordError, RevocationRecord, decode};
use crate::storehouse::REVOCATIONS;

/// Longer marks are no token's: tokens themselves are not much longer.
const MAX_MARK: usize = 4096;
const ID: &[u8] = b"revoked/id/";
const SUBJECT: &[u8] = b"revoked/sub/";

/// Why a token could not be revoked, or why it is not known which ones are.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RevocationError {
    /// The castore failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record is damaged.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// No token is marked so.
    #[error("an id or a subject has 1 to {MAX_MARK} bytes")]
    Mark,
}

/// When things were revoked, by mark.
type Times = HashMap<String, u64>;

/// The tokens that are void.
pub struct Revocations {
    store: Arc<Store>,
    ids: RwLock<Times>,
    subjects: RwLock<Times>,
}

impl Revocations {
    /// Reads what has been revoked so far.
    pub(crate) fn open(store: Arc<Store>) -> Result<Self, RevocationError> {
        let ids = RwLock::new(load(&store, ID)?);
        let subjects = RwLock::new(load(&store, SUBJECT)?);
        Ok(Self { store, ids, subjects })
    }

    /// Reads what has been revoked by others. Blocks.
    pub(crate) fn reload(&self) -> Result<(), RevocationError> {
        for (times, prefix) in [(&self.ids, ID), (&self.subjects, SUBJECT)] {
            let found = load(&self.store, prefix)?;
            let mut times = times.write().unwrap_or_else(PoisonError::into_inner);
            for (mark, revoked) in found {
                let time = times.entry(mark).or_default();
                *time = revoked.max(*time);
            }
        }
        Ok(())
    }

    /// Revokes the token with that id. When this returns it is durable. Blocks.
    pub fn revoke_id(&self, id: &str) -> Result<(), RevocationError> {
        self.revoke(ID, &self.ids, id)
    }

    /// Revokes the tokens of a subject that were issued up to now. When this returns it is durable.
    /// Blocks.
    pub fn revoke_subject(&self, subject: &str) -> Result<(), RevocationError> {
        self.revoke(SUBJECT, &self.subjects, subject)
    }

    fn revoke(
        &self,
        prefix: &[u8],
        times: &RwLock<Times>,
        mark: &str,
    ) -> Result<(), RevocationError> {
        if mark.is_empty() || mark.len() > MAX_MARK {
            return Err(RevocationError::Mark);
        }
        let key = [prefix, mark.as_bytes()].concat();
        loop {
            let before = self.store.fact(&key)?;
            let last = match &before {
                Some(fact) => decode::<RevocationRecord>(mark, &fact.value)?.revoked,
                None => 0,
            };
            // A clock that was put back must not bring tokens back.
            let revoked = self.store.now().max(last);
            let mut transaction = Transaction::default();
            let record = RevocationRecord { revoked }.encode_to_vec();
            transaction.put(key.clone(), record, Expected::as_read(before.as_ref()));
            transaction.touch(REVOCATIONS);
            match self.store.commit(transaction) {
                Ok(_) => {
                    let mut times = times.write().unwrap_or_else(PoisonError::into_inner);
                    let time = times.entry(mark.to_owned()).or_default();
                    *time = revoked.max(*time);
                    return Ok(());
                }
                Err(castore::CommitError::Conflict) => continue,
                Err(error) => return Err(StoreError::from(error).into()),
            }
        }
    }

    /// Whether a token is void. One that does not say when it was issued was issued long ago.
    pub fn is_revoked(&self, id: Option<&str>, subject: &str, issued: Option<u64>) -> bool {
        let ids = self.ids.read().unwrap_or_else(PoisonError::into_inner);
        if id.is_some_and(|id| ids.contains_key(id)) {
            return true;
        }
        self.subject(subject).is_some_and(|until| issued.unwrap_or(0) <= until)
    }

    /// Until when the tokens of a subject are void.
    pub fn subject(&self, subject: &str) -> Option<u64> {
        self.subjects.read().unwrap_or_else(PoisonError::into_inner).get(subject).copied()
    }

    /// All revoked ids, with when that was.
    pub fn ids(&self) -> Vec<(String, u64)> {
        list(&self.ids)
    }

    /// All subjects with void tokens, with the time up to which they are.
    pub fn subjects(&self) -> Vec<(String, u64)> {
        list(&self.subjects)
    }
}

fn list(times: &RwLock<Times>) -> Vec<(String, u64)> {
    let times = times.read().unwrap_or_else(PoisonError::into_inner);
    times.iter().map(|(mark, time)| (mark.clone(), *time)).collect()
}

fn load(store: &Store, prefix: &[u8]) -> Result<Times, RevocationError> {
    let mut times = Times::new();
    store.each_fact(prefix, |mark, fact| {
        let mark = String::from_utf8(mark.to_vec())
            .map_err(|error| RecordError::new("a revocation", error))?;
        let record: RevocationRecord = decode(&format!("revocation {mark}"), &fact.value)?;
        times.insert(mark, record.revoked);
        Ok::<_, RevocationError>(())
    })?;
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Storehouse;
    use castore::Options;

    #[test]
    fn what_was_revoked_stays_so_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let house = Storehouse::open(dir.path(), Options::new(&mut |_| ())).unwrap();
        let revoked = house.revocations();
        assert!(!revoked.is_revoked(Some("1"), "alice", None));
        revoked.revoke_id("1").unwrap();
        revoked.revoke_subject("bob").unwrap();
        revoked.revoke_subject("bob").unwrap();
        drop(house);
        let house = Storehouse::open(dir.path(), Options::new(&mut |_| ())).unwrap();
        let revoked = house.revocations();
        let until = revoked.subject("bob").unwrap();
        for (id, subject, issued, expected) in [
            (Some("1"), "alice", Some(u64::MAX), true),
            (Some("2"), "alice", Some(0), false),
            (None, "alice", None, false),
            (None, "bob", Some(until), true),
            (None, "bob", None, true),
            (Some("3"), "bob", Some(until + 1), false),
        ] {
            let found = revoked.is_revoked(id, subject, issued);
            assert_eq!(found, expected, "{id:?} {subject} {issued:?}");
        }
        assert_eq!(revoked.ids().len(), 1);
        assert_eq!(revoked.subjects(), [("bob".to_owned(), until)]);
    }

    #[test]
    fn marks_that_no_token_has_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let house = Storehouse::open(dir.path(), Options::new(&mut |_| ())).unwrap();
        for mark in [String::new(), "x".repeat(MAX_MARK + 1)] {
            let refused = house.revocations().revoke_id(&mark);
            assert!(matches!(refused, Err(RevocationError::Mark)));
        }
    }
}
