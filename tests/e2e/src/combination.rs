//! On which store and under which index the servers of a test run: `GRANARY_TEST_STORE` is `disk`
//! (unless given) or `s3`, `GRANARY_TEST_INDEX` is `sled` (unless given) or `postgres`.
//!
//! A test asks only where what it looks at differs. It is never skipped for its combination.

/// Where packs lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// The data directory.
    Disk,
    /// An S3 server of this process.
    S3,
}

/// Where facts are looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Index {
    /// The data directory.
    Sled,
    /// A PostgreSQL of this process.
    Postgres,
}

/// One of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Combination {
    /// Where packs lie.
    pub store: Store,
    /// Where facts are looked up.
    pub index: Index,
}

impl Combination {
    /// What the environment says.
    pub fn chosen() -> Self {
        let given = |name: &str| std::env::var(name).unwrap_or_default();
        let store = match given("GRANARY_TEST_STORE").as_str() {
            "" | "disk" => Store::Disk,
            "s3" => Store::S3,
            other => panic!("GRANARY_TEST_STORE={other}: disk or s3"),
        };
        let index = match given("GRANARY_TEST_INDEX").as_str() {
            "" | "sled" => Index::Sled,
            "postgres" => Index::Postgres,
            other => panic!("GRANARY_TEST_INDEX={other}: sled or postgres"),
        };
        Self { store, index }
    }

    /// Whether a server on it makes a lost index anew by itself. One that others may share is more
    /// likely to be the wrong one than to be lost, so a person has to say that it is.
    pub fn rebuilds_by_itself(self) -> bool {
        self.index == Index::Sled
    }
}
