//! The sync protocol, see [`granary_api::sync`]. Nothing that comes is believed here: whoever asks
//! holds it against signatures and digests.

use std::io::{self, BufReader, Read};

use bytes::Bytes;
use granary_api::push::MAX_BODY;
use granary_api::sync::{
    MAX_PATHS_AT_ONCE, MAX_PROFILES_BODY, MAX_SYNC_ANSWER, MAX_SYNCED_PATH, MAX_WINDOW_LOG,
    PathProfile, SyncPaths, SyncedPath,
};
use prost::Message;

use super::api::RemoteCache;
use super::error::Error;

/// The longest answer of `sync`: it ends with the first path that makes it too long. What zstd and
/// the lengths of the messages add to what does not compress has room in the longest message.
const MAX_ANSWER: usize = MAX_SYNC_ANSWER + MAX_SYNCED_PATH;

impl RemoteCache {
    /// Asks for paths. The answer may end before all has been said, see [`granary_api::sync`].
    pub async fn sync(&self, question: &SyncPaths) -> Result<Vec<SyncedPath>, Error> {
        let body = self.post("/sync", question.encode_to_vec().into(), MAX_ANSWER).await?;
        let read = tokio::task::spawn_blocking(move || synced_paths(&body));
        let read = read.await.unwrap_or_else(|error| Err(error.to_string()));
        read.map_err(|why| Error::NotGranary {
            server: self.server().base().clone(),
            why: format!("unexpected answer of sync: {why}"),
        })
    }

    /// Asks for chunks: digests one behind the other to records one behind the other, see
    /// [`granary_api::sync`].
    pub async fn read_chunks(&self, digests: Bytes) -> Result<Bytes, Error> {
        self.post("/chunks/read", digests, MAX_BODY).await
    }

    /// Sends profiles, in several requests if they are many.
    pub async fn send_profiles(&self, profiles: &[PathProfile]) -> Result<(), Error> {
        let (mut body, mut count) = (Vec::new(), 0);
        for profile in profiles {
            let message = profile.encode_length_delimited_to_vec();
            if count == MAX_PATHS_AT_ONCE || body.len() + message.len() > MAX_PROFILES_BODY {
                self.post("/profiles", std::mem::take(&mut body).into(), MAX_BODY).await?;
                count = 0;
            }
            body.extend_from_slice(&message);
            count += 1;
        }
        if body.is_empty() {
            return Ok(());
        }
        self.post("/profiles", body.into(), MAX_BODY).await.map(drop)
    }
}

/// Reads an answer message by message.
fn synced_paths(compressed: &[u8]) -> Result<Vec<SyncedPath>, String> {
    let bad = |error: io::Error| error.to_string();
    let mut decoder = zstd::stream::Decoder::with_buffer(compressed).map_err(bad)?;
    decoder.window_log_max(MAX_WINDOW_LOG).map_err(bad)?;
    let mut plain = BufReader::with_capacity(64 * 1024, decoder.take(MAX_ANSWER as u64));
    let mut paths = Vec::new();
    while let Some(length) = length(&mut plain)? {
        if paths.len() == MAX_PATHS_AT_ONCE {
            return Err(format!("there are more than {MAX_PATHS_AT_ONCE} paths"));
        }
        if length > MAX_SYNCED_PATH as u64 {
            return Err(format!("a path takes {length} bytes"));
        }
        let mut message = Vec::new();
        (&mut plain).take(length).read_to_end(&mut message).map_err(bad)?;
        if message.len() as u64 != length {
            return Err("the last path is cut off".to_owned());
        }
        paths.push(SyncedPath::decode_bounded(&message)?);
    }
    Ok(paths)
}

/// The length before a message, a protobuf varint; `None` at the end.
fn length(plain: &mut impl Read) -> Result<Option<u64>, String> {
    let mut bytes = [0; 10];
    for at in 0..bytes.len() {
        match plain.read(&mut bytes[at..=at]).map_err(|error| error.to_string())? {
            0 if at == 0 => return Ok(None),
            0 => break,
            _ => {}
        }
        if bytes[at] < 0x80 {
            let length = prost::encoding::decode_varint(&mut &bytes[..=at]);
            return length.map(Some).map_err(|error| error.to_string());
        }
    }
    Err("a path does not start with its length".to_owned())
}
