//! What Granary's server and its clients say to each other.
//!
//! ```text
//! /_granary/v1/whoami                            GET    -> Whoami
//! /_granary/v1/token                             POST   -> IssuedToken     for an OIDC identity token
//! /_granary/v1/revocations                       GET    -> Revocations
//!                                                POST   Revoke
//! /_granary/v1/gc                                POST   Collect        -> Collected
//! /_granary/v1/caches                            GET    -> CacheList     ?destroyed=1
//! /_granary/v1/caches/<cache>                    GET    -> CacheInfo
//!                                                PUT    CreateCache    -> CacheInfo
//!                                                PATCH  ConfigureCache -> CacheInfo
//!                                                DELETE                undone by restore until GC
//!                                                DELETE ?dry_run=1     -> DestroyPlan
//! /_granary/v1/caches/<cache>/restore            POST   -> CacheInfo
//! /_granary/v1/caches/<cache>/keys               GET    -> KeyList
//!                                                POST   AddKey         -> KeyList
//! /_granary/v1/caches/<cache>/keys/<name>        DELETE -> KeyList     ?after=<seconds>
//! /_granary/v1/caches/<cache>/pins               GET    -> PinList
//! /_granary/v1/caches/<cache>/pins/<name>        GET    -> PinInfo
//!                                                PUT    AddPin         -> PinInfo
//!                                                DELETE
//! /_granary/v1/caches/<cache>/pins/<name>/verify POST   -> PinReport
//! /_granary/v1/caches/<cache>/missing            POST   MissingPaths   -> Missing
//! /_granary/v1/caches/<cache>/chunks/missing     POST   digests        -> bitmap
//! /_granary/v1/caches/<cache>/chunks             POST   records of packs
//! /_granary/v1/caches/<cache>/paths              GET    -> PathList      ?after=<hash part>&limit=<n>
//!                                                GET ?details=1 -> DetailedPathList
//!                                                POST   PublishPath*   -> PathOutcome*
//! /_granary/v1/caches/<cache>/paths/<hash part>  GET    -> PathInfo      ?sizes=1
//!                                                DELETE -> DeletedPaths  ?referrers=1&closure=1
//!                                                                        &dry_run=1&sizes=1
//! /_granary/v1/caches/<cache>/paths/delete       POST   DeletePaths    -> DeletedPaths
//! /_granary/v1/caches/<cache>/sync               POST   SyncPaths      -> SyncedPath*
//! /_granary/v1/caches/<cache>/chunks/read        POST   digests        -> records of packs
//! /_granary/v1/caches/<cache>/profiles           POST   PathProfile*
//! ```
//!
//! What is not said otherwise is JSON. Errors are [`ErrorBody`], whatever the route.

pub mod cache;
pub mod duration;
pub mod error;
pub mod gc;
pub mod paths;
pub mod pattern;
pub mod permission;
pub mod pin;
pub mod push;
pub mod sync;
pub mod token;

pub use cache::{
    AddKey, CacheInfo, CacheList, ConfigureCache, CreateCache, KeyInfo, KeyList, PathList,
};
pub use error::ErrorBody;
pub use paths::{DeletePaths, DeletedPaths, DestroyPlan, DetailedPathList, PathInfo};
pub use permission::Permission;
pub use pin::{AddPin, PinInfo, PinList, PinReport, PinRevision};
pub use token::{IssuedToken, Revocations, Revoke, Whoami};

/// Where the API lies below a server's address.
pub const PREFIX: &str = "/_granary/v1";
