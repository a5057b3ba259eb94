//! What the owner of a cache decides about it, and what makes sense there.

use std::fmt;
use std::str::FromStr;

use nix_compat::signature::VerifyingKey;
use nix_compat::store_path::StoreDir;

use crate::records::{CacheRecord, RecordError};

/// The key of cache.nixos.org, which nearly every Nix trusts.
const NIXOS_KEY: &str = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

/// The priority of a cache whose owner has none in mind: as that of cache.nixos.org.
const DEFAULT_PRIORITY: u32 = 40;

/// Nix reads priorities into a signed 32-bit integer.
const MAX_PRIORITY: u32 = i32::MAX as u32;

/// Pushers hold every signature against each of them.
const MAX_UPSTREAM_KEYS: usize = 100;

/// A setting that makes no sense. The message starts with its name.
#[derive(Debug, thiserror::Error)]
#[error("{field}: {why}")]
pub struct SettingError {
    field: &'static str,
    why: String,
}

impl SettingError {
    /// This field is wrong, for this reason.
    pub fn new(field: &'static str, why: impl ToString) -> Self {
        Self { field, why: why.to_string() }
    }
}

/// Somebody from whom clients get paths anyway, so that what they sign need not be pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamKey {
    /// A public key.
    Key(VerifyingKey),
    /// Only its name; nothing can be verified with it.
    Name(String),
}

impl FromStr for UpstreamKey {
    type Err = SettingError;

    /// Reads `name:base64`, or a bare name. The name of a key that everybody knows is completed.
    fn from_str(text: &str) -> Result<Self, SettingError> {
        let text = text.trim();
        let wrong = |why: &dyn fmt::Display| {
            SettingError::new("upstream_keys", format!("`{text}` is not a public key: {why}"))
        };
        if text.contains(':') {
            return text.parse().map(Self::Key).map_err(|error| wrong(&error));
        }
        if NIXOS_KEY.split_once(':').is_some_and(|(name, _)| name == text) {
            return NIXOS_KEY.parse().map(Self::Key).map_err(|error| wrong(&error));
        }
        let bad = |c: char| c.is_whitespace() || c.is_control();
        if text.is_empty() || text.contains(bad) {
            return Err(wrong(&"`name:base64` is wanted, or at least a name without spaces"));
        }
        Ok(Self::Name(text.to_owned()))
    }
}

impl fmt::Display for UpstreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => key.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// The settings of a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheSettings {
    /// Whether reading needs no token.
    pub public: bool,
    /// Where its paths live.
    pub store_dir: StoreDir,
    /// Priority among substituters; smaller is asked first.
    pub priority: u32,
    /// Whose paths are not pushed.
    pub upstream_keys: Vec<UpstreamKey>,
    /// Seconds for which a path is kept after its last use; `None` for the server's default.
    pub retention: Option<u64>,
    /// Seconds for which a path is kept after its upload; `None` for the server's default.
    pub max_age: Option<u64>,
    /// What the paths may take together, in bytes of their NARs as zstd; `None` for the server's
    /// default.
    pub max_size: Option<u64>,
}

impl Default for CacheSettings {
    /// A private cache beside cache.nixos.org.
    fn default() -> Self {
        Self {
            public: false,
            store_dir: StoreDir::default(),
            priority: DEFAULT_PRIORITY,
            upstream_keys: NIXOS_KEY.parse().into_iter().collect(),
            retention: None,
            max_age: None,
            max_size: None,
        }
    }
}

impl CacheSettings {
    /// Says which of them makes no sense, if one does.
    pub(crate) fn check(&self) -> Result<(), SettingError> {
        if self.priority > MAX_PRIORITY {
            let why =
                format!("{} is more than {MAX_PRIORITY}, which Nix cannot read", self.priority);
            return Err(SettingError::new("priority", why));
        }
        if self.upstream_keys.len() > MAX_UPSTREAM_KEYS {
            let why = format!(
                "there are {}, and at most {MAX_UPSTREAM_KEYS} are taken",
                self.upstream_keys.len()
            );
            return Err(SettingError::new("upstream_keys", why));
        }
        let kept =
            [("retention", self.retention), ("max_age", self.max_age), ("max_size", self.max_size)];
        if let Some((field, _)) = kept.into_iter().find(|(_, value)| *value == Some(0)) {
            let why = "0 would keep nothing; reset it to get the server's default";
            return Err(SettingError::new(field, why));
        }
        Ok(())
    }

    pub(crate) fn of_record(what: &str, record: &CacheRecord) -> Result<Self, RecordError> {
        let store_dir = match record.store_dir.as_str() {
            "" => StoreDir::default(),
            dir => dir.parse().map_err(|error| RecordError::new(what, error))?,
        };
        let upstream_keys = record.upstream_keys.iter().map(|key| key.parse());
        let upstream_keys: Result<Vec<_>, SettingError> = upstream_keys.collect();
        Ok(Self {
            public: !record.private,
            store_dir,
            priority: record.priority,
            upstream_keys: upstream_keys.map_err(|error| RecordError::new(what, error))?,
            retention: record.retention,
            max_age: record.max_age,
            max_size: record.max_size,
        })
    }

    pub(crate) fn write_to(&self, record: &mut CacheRecord) {
        record.private = !self.public;
        record.store_dir = match self.store_dir == StoreDir::default() {
            true => String::new(),
            false => self.store_dir.to_string(),
        };
        record.priority = self.priority;
        record.upstream_keys = self.upstream_keys.iter().map(|key| key.to_string()).collect();
        record.retention = self.retention;
        record.max_age = self.max_age;
        record.max_size = self.max_size;
    }
}

/// Changes to the settings of a cache. What is `None` stays.
#[derive(Clone, Debug, Default)]
pub struct CacheChanges {
    /// See [`CacheSettings::public`].
    pub public: Option<bool>,
    /// See [`CacheSettings::store_dir`]. Only a cache without paths can be moved.
    pub store_dir: Option<StoreDir>,
    /// See [`CacheSettings::priority`].
    pub priority: Option<u32>,
    /// See [`CacheSettings::upstream_keys`].
    pub upstream_keys: Option<Vec<UpstreamKey>>,
    /// See [`CacheSettings::retention`].
    pub retention: Option<Option<u64>>,
    /// See [`CacheSettings::max_age`].
    pub max_age: Option<Option<u64>>,
    /// See [`CacheSettings::max_size`].
    pub max_size: Option<Option<u64>>,
}

impl CacheChanges {
    pub(crate) fn apply(&self, settings: &mut CacheSettings) {
        fn set<T: Clone>(value: &mut T, change: &Option<T>) {
            if let Some(change) = change {
                value.clone_from(change);
            }
        }
        set(&mut settings.public, &self.public);
        set(&mut settings.store_dir, &self.store_dir);
        set(&mut settings.priority, &self.priority);
        set(&mut settings.upstream_keys, &self.upstream_keys);
        set(&mut settings.retention, &self.retention);
        set(&mut settings.max_age, &self.max_age);
        set(&mut settings.max_size, &self.max_size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_key_is_a_key_or_a_name_and_the_well_known_one_is_completed() {
        let completed: UpstreamKey = "cache.nixos.org-1".parse().unwrap();
        assert_eq!(completed.to_string(), NIXOS_KEY);
        assert_eq!(NIXOS_KEY.parse::<UpstreamKey>().unwrap(), completed);
        assert_eq!(CacheSettings::default().upstream_keys, [completed]);
        let named: UpstreamKey = "elsewhere-1".parse().unwrap();
        assert_eq!(named, UpstreamKey::Name("elsewhere-1".to_owned()));
        for wrong in ["", "two words", "elsewhere-1:", "elsewhere-1:AAAA", ":AAAA"] {
            let message = wrong.parse::<UpstreamKey>().unwrap_err().to_string();
            assert!(message.starts_with(&format!("upstream_keys: `{wrong}`")), "{message}");
        }
    }

    #[test]
    fn settings_that_make_no_sense_are_named() {
        let key: UpstreamKey = "k".parse().unwrap();
        let usual = CacheSettings::default;
        for (field, settings) in [
            ("priority", CacheSettings { priority: 1 << 31, ..usual() }),
            ("retention", CacheSettings { retention: Some(0), ..usual() }),
            ("max_age", CacheSettings { max_age: Some(0), ..usual() }),
            ("max_size", CacheSettings { max_size: Some(0), ..usual() }),
            ("upstream_keys", CacheSettings { upstream_keys: vec![key; 101], ..usual() }),
        ] {
            let message = settings.check().unwrap_err().to_string();
            assert!(message.starts_with(&format!("{field}: ")), "{message}");
        }
        usual().check().unwrap();
    }
}
