//! What an upload says of its NAR: JSON in the header `X-Attic-Nar-Info`, or, as a header has no
//! room for many references, the first `X-Attic-Nar-Info-Preamble-Size` bytes of the body.
//!
//! ```json
//! {"cache": "team", "store_path_hash": "<32 characters>", "store_path": "/nix/store/<hash>-<name>",
//!  "references": ["<hash>-<name>"], "system": null, "deriver": null, "sigs": [], "ca": null,
//!  "nar_hash": "sha256:<hex>", "nar_size": 1234}
//! ```

use axum::body::Body;
use axum::http::HeaderMap;
use nix_compat::narinfo::{Flags, NarInfo};
use nix_compat::nixhash::Sha256;
use nix_compat::store_path::{StoreDir, StorePath, StorePathHash};
use serde::Deserialize;

use crate::body::read_prefix;
use crate::error::ApiError;

const HEADER: &str = "x-attic-nar-info";
const PREAMBLE_SIZE: &str = "x-attic-nar-info-preamble-size";

/// The longest preamble: some 15 000 references, as for narinfos.
const MAX_PREAMBLE: usize = 1024 * 1024;
/// The longest header: less than what the server reads of a whole head. Clients send a preamble from
/// 4 KiB on; the first ones did not know it.
const MAX_HEADER: usize = 128 * 1024;

/// What a client says of the NAR that it uploads.
#[derive(Debug, Deserialize)]
pub(super) struct UploadInfo {
    pub cache: String,
    store_path_hash: String,
    store_path: String,
    references: Vec<String>,
    #[serde(default)]
    deriver: Option<String>,
    #[serde(default)]
    sigs: Vec<String>,
    #[serde(default)]
    ca: Option<String>,
    nar_hash: String,
    nar_size: u64,
}

/// Reads it, and leaves the NAR in the body.
pub(super) async fn read(headers: &HeaderMap, body: &mut Body) -> Result<UploadInfo, ApiError> {
    let json = match (headers.get(PREAMBLE_SIZE), headers.get(HEADER)) {
        (Some(size), _) => {
            let size = size.to_str().ok().and_then(|size| size.parse::<u64>().ok());
            let size = size.ok_or_else(|| wrong(PREAMBLE_SIZE, &"a number of bytes is wanted"))?;
            let size = usize::try_from(size).ok().filter(|size| *size <= MAX_PREAMBLE);
            let too_large = || format!("{PREAMBLE_SIZE}: at most {MAX_PREAMBLE} bytes are taken");
            read_prefix(body, size.ok_or_else(|| ApiError::TooLarge(too_large()))?).await?
        }
        (None, Some(json)) if json.len() > MAX_HEADER => {
            let text = format!("{HEADER}: it is longer than {MAX_HEADER} bytes: send a preamble");
            return Err(ApiError::TooLarge(text));
        }
        (None, Some(json)) => json.as_bytes().to_vec(),
        (None, None) => {
            let text = format!("one of the headers {HEADER} and {PREAMBLE_SIZE} is wanted");
            return Err(ApiError::BadRequest(text));
        }
    };
    serde_json::from_slice(&json).map_err(|error| wrong(HEADER, &error))
}

impl UploadInfo {
    /// The same as types. Its URL is not known yet.
    pub(super) fn to_narinfo(&self, store_dir: &StoreDir) -> Result<NarInfo<'static>, ApiError> {
        let store_path: StorePath =
            field("store_path", StorePath::from_absolute(&self.store_path, store_dir))?;
        let hash: StorePathHash = field("store_path_hash", self.store_path_hash.parse())?;
        if store_path.hash() != hash {
            return Err(wrong("store_path_hash", &format!("it is not that of {store_path}")));
        }
        // Clients send names; a whole path is as clear.
        let path = |text: &String| match text.starts_with('/') {
            true => StorePath::from_absolute(text, store_dir),
            false => text.parse(),
        };
        let optional = |text: &'_ Option<String>| text.clone().filter(|text| !text.is_empty());
        let deriver = optional(&self.deriver).filter(|deriver| deriver != "unknown-deriver");
        let signatures = self.sigs.iter().map(|signature| signature.parse());
        let ca = optional(&self.ca).map(|ca| ca.parse());
        Ok(NarInfo {
            store_path,
            url: "",
            compression: None,
            file_hash: None,
            file_size: None,
            nar_hash: field("nar_hash", Sha256::parse(&self.nar_hash))?.0,
            nar_size: self.nar_size,
            references: field("references", self.references.iter().map(path).collect())?,
            deriver: field("deriver", deriver.as_ref().map(path).transpose())?,
            system: None,
            signatures: field("sigs", signatures.collect())?,
            ca: field("ca", ca.transpose())?,
            unknown: Vec::new(),
            flags: Flags::default(),
        })
    }
}

fn field<T, E: std::fmt::Display>(name: &str, parsed: Result<T, E>) -> Result<T, ApiError> {
    parsed.map_err(|error| wrong(name, &error))
}

fn wrong(name: &str, why: &dyn std::fmt::Display) -> ApiError {
    ApiError::BadRequest(format!("{name}: {why}"))
}
