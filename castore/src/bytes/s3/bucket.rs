//! Objects of one bucket: each request that is made of the server, with its retries.
//!
//! Names are below the location's prefix. A request that succeeded twice, because the first answer got
//! lost, must do no harm: objects are put whole, under names that are never given to other bytes.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use aws_sdk_s3::Client;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use tokio::time::timeout;

use super::client::Clients;
use super::error::{Failure, S3Error};
use super::location::S3Location;
use super::retry::{Attempts, Budget, Patience, Retry};
use super::statistics::{Counters, add, count};
use super::throttle::Throttle;

/// Longest text kept beside the packs.
const MAX_NOTE: u64 = 1 << 20;
/// Longest URL validity that SigV4 has.
const MAX_EXPIRES: Duration = Duration::from_secs(7 * 24 * 3600);

/// A bucket, or what lies below a prefix of it.
pub struct Bucket {
    pub(super) s3: Client,
    public: Client,
    pub(super) location: S3Location,
    pub(super) patience: Patience,
    throttle: Throttle,
    pub counters: Counters,
    /// Whether the server takes `If-None-Match: *` when an object is put, as far as is known.
    conditional: AtomicBool,
    /// Whether anything ever succeeded: the bucket exists then.
    exists: AtomicBool,
}

/// Makes attempts until one succeeds or none may follow.
macro_rules! attempts {
    ($bucket:expr, $budget:expr, $operation:expr, $name:expr, $attempt:expr) => {{
        let mut attempts = $bucket.attempts($budget, $operation, $name);
        loop {
            if let Some(value) = attempts.attempt($attempt).await? {
                break value;
            }
        }
    }};
}
pub(super) use attempts;

/// What a list says of an object.
pub struct Object {
    /// Below the location's prefix.
    pub name: String,
    pub len: Option<u64>,
}

impl Bucket {
    pub fn new(clients: Clients, location: S3Location, patience: Patience) -> Self {
        Self {
            s3: clients.s3,
            public: clients.public,
            location,
            patience,
            throttle: Throttle::new(),
            counters: Counters::default(),
            conditional: AtomicBool::new(true),
            exists: AtomicBool::new(false),
        }
    }

    pub(super) fn attempts(
        &self,
        budget: Budget,
        operation: &'static str,
        name: &str,
    ) -> Attempts<'_> {
        let (patience, throttle, counters) = (self.patience, &self.throttle, &self.counters);
        let object = format!("s3://{}/{}", self.location.bucket, self.location.key(name));
        Attempts::new(Retry { patience, throttle, counters }, budget, operation, object)
    }

    /// Length of an object; `None` if there is none.
    pub async fn head(&self, name: &str) -> Result<Option<u64>, S3Error> {
        let key = self.location.key(name);
        let found = attempts!(self, self.patience.read(0), "ask for", name, async {
            count(&self.counters.heads);
            let request = self.s3.head_object().bucket(&self.location.bucket).key(&key);
            match request.send().await {
                Ok(found) => match found.content_length().map(u64::try_from) {
                    Some(Ok(len)) => Ok(Some(len)),
                    _ => Err(Failure::again("the answer does not say how long it is")),
                },
                Err(error) => match Failure::of(&error) {
                    failure if failure.is_absent_head() => Ok(None),
                    failure => Err(failure),
                },
            }
        });
        // A bucket that is not there gets the same answer.
        if found.is_none() && !self.exists.load(Ordering::Relaxed) {
            self.check().await?;
        }
        self.exists.store(true, Ordering::Relaxed);
        Ok(found)
    }

    /// Puts an object. With `fresh`, one of that name and length is left as it is.
    pub async fn put(&self, name: &str, body: Bytes, fresh: bool) -> Result<(), S3Error> {
        let mut fresh = fresh;
        loop {
            let only_if_absent = fresh && self.conditional.load(Ordering::Relaxed);
            let refused = match self.put_once(name, &body, only_if_absent).await {
                Ok(()) => {
                    self.exists.store(true, Ordering::Relaxed);
                    return Ok(());
                }
                Err(refused) if only_if_absent => refused,
                Err(error) => return Err(error),
            };
            let failure = refused.failure();
            if failure.status == Some(412) {
                if self.head(name).await? == Some(body.len() as u64) {
                    return Ok(());
                }
                // Cut short by somebody who is gone; names are never given twice.
                fresh = false;
            } else if failure.is_unsupported() {
                tracing::debug!("the object store does not take conditional puts");
                self.conditional.store(false, Ordering::Relaxed);
            } else {
                return Err(refused);
            }
        }
    }

    async fn put_once(&self, name: &str, body: &Bytes, absent: bool) -> Result<(), S3Error> {
        let len = body.len() as u64;
        let key = self.location.key(name);
        attempts!(self, self.patience.write(len), "write", name, async {
            count(&self.counters.puts);
            add(&self.counters.bytes_out, len);
            let request = self
                .s3
                .put_object()
                .bucket(&self.location.bucket)
                .key(&key)
                .set_if_none_match(absent.then(|| "*".to_owned()))
                .body(ByteStream::from(body.clone()));
            request.send().await.map(drop).map_err(|error| Failure::of(&error))
        });
        Ok(())
    }

    /// Removes an object. One that is not there is removed.
    pub async fn delete(&self, name: &str) -> Result<(), S3Error> {
        let key = self.location.key(name);
        attempts!(self, self.patience.read(0), "remove", name, async {
            count(&self.counters.deletes);
            let request = self.s3.delete_object().bucket(&self.location.bucket).key(&key);
            match request.send().await.map_err(|error| Failure::of(&error)) {
                Err(failure) if !failure.is_absent() => Err(failure),
                _ => Ok(()),
            }
        });
        Ok(())
    }

    /// A small object whole; `None` if there is none.
    pub async fn text(&self, name: &str) -> Result<Option<String>, S3Error> {
        let key = self.location.key(name);
        let found = attempts!(self, self.patience.read(0), "read", name, async {
            let request = self.s3.get_object().bucket(&self.location.bucket).key(&key);
            let found = match request.send().await.map_err(|error| Failure::of(&error)) {
                Ok(found) => found,
                Err(failure) if failure.is_absent() => return Ok(None),
                Err(failure) => return Err(failure),
            };
            let len = found.content_length().and_then(|len| u64::try_from(len).ok());
            let len = len.ok_or_else(|| Failure::again("it has no length"))?;
            if len > MAX_NOTE {
                return Err(Failure::last(format!("{len} bytes are too many for a note")));
            }
            let mut text = Vec::with_capacity(len as usize);
            let mut body = found.body;
            while let Some(bytes) = self.next(&mut body).await? {
                text.extend_from_slice(&bytes);
            }
            if text.len() as u64 != len {
                return Err(Failure::again("the body was cut short"));
            }
            String::from_utf8(text).map(Some).map_err(|_| Failure::last("it is not UTF-8"))
        });
        Ok(found)
    }

    /// Begins to read a range, cut at the object's end. Returns the body and the object's length.
    /// One attempt.
    pub async fn range(&self, name: &str, range: Range<u64>) -> Result<(ByteStream, u64), Failure> {
        count(&self.counters.range_gets);
        let request = self
            .s3
            .get_object()
            .bucket(&self.location.bucket)
            .key(self.location.key(name))
            .range(format!("bytes={}-{}", range.start, range.end - 1));
        let answer = timeout(self.patience.answer, request.send()).await;
        let found = answer
            .map_err(|_| Failure::again("no answer in time"))?
            .map_err(|error| Failure::of(&error))?;
        self.exists.store(true, Ordering::Relaxed);
        let total = whole_length(&found, &range)
            .ok_or_else(|| Failure::again("the answer is not the range that was asked for"))?;
        Ok((found.body, total))
    }

    /// The next bytes of a body, which have to come soon.
    pub async fn next(&self, body: &mut ByteStream) -> Result<Option<Bytes>, Failure> {
        match timeout(self.patience.stall, body.next()).await {
            Ok(Some(Ok(bytes))) => {
                add(&self.counters.bytes_in, bytes.len() as u64);
                Ok(Some(bytes))
            }
            Ok(None) => Ok(None),
            Ok(Some(Err(error))) => Err(Failure::again(format!("the body broke off: {error}"))),
            Err(_) => Err(Failure::again("the body stalled")),
        }
    }

    /// Every object whose name begins with `below`.
    pub async fn list(&self, below: &str) -> Result<Vec<Object>, S3Error> {
        let prefix = self.location.key(below);
        // What stands before the names of this location.
        let cut = prefix.len() - below.len();
        let mut objects = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let page = attempts!(self, self.patience.read(0), "list", below, async {
                count(&self.counters.lists);
                let request = self
                    .s3
                    .list_objects_v2()
                    .bucket(&self.location.bucket)
                    .prefix(&prefix)
                    .set_continuation_token(token.clone());
                request.send().await.map_err(|error| Failure::of(&error))
            });
            self.exists.store(true, Ordering::Relaxed);
            objects.extend(page.contents().iter().filter_map(|object| {
                let name = object.key()?.get(cut..)?.to_owned();
                Some(Object { name, len: object.size().and_then(|len| u64::try_from(len).ok()) })
            }));
            match page.next_continuation_token() {
                Some(next) if page.is_truncated() == Some(true) => token = Some(next.to_owned()),
                _ => return Ok(objects),
            }
        }
    }

    /// Whether the bucket answers.
    pub async fn check(&self) -> Result<(), S3Error> {
        attempts!(self, self.patience.check(), "list", "", async {
            count(&self.counters.lists);
            let request = self
                .s3
                .list_objects_v2()
                .bucket(&self.location.bucket)
                .prefix(self.location.key(""))
                .max_keys(1);
            request.send().await.map(drop).map_err(|error| Failure::of(&error))
        });
        self.exists.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// A URL by which anybody can read an object for a while.
    pub async fn presigned(&self, name: &str, expires: Duration) -> io::Result<String> {
        let expires = expires.clamp(Duration::from_secs(1), MAX_EXPIRES);
        let config = PresigningConfig::expires_in(expires).map_err(io::Error::other)?;
        let key = self.location.key(name);
        let request = self.public.get_object().bucket(&self.location.bucket).key(&key);
        let signed = request.presigned(config).await.map_err(|error| {
            let object = format!("s3://{}/{key}", self.location.bucket);
            S3Error::new("sign a URL for", object, 1, Failure::of(&error))
        })?;
        Ok(signed.uri().to_owned())
    }

    /// Aborts the uploads in parts that were begun before; returns how many.
    pub async fn abort_uploads(&self, begun_before: SystemTime) -> Result<u64, S3Error> {
        let prefix = self.location.key(super::PACKS);
        let mut aborted = 0;
        let (mut key, mut id): (Option<String>, Option<String>) = (None, None);
        loop {
            let page = attempts!(self, self.patience.read(0), "list uploads of", "", async {
                count(&self.counters.lists);
                let request = self
                    .s3
                    .list_multipart_uploads()
                    .bucket(&self.location.bucket)
                    .prefix(&prefix)
                    .set_key_marker(key.clone())
                    .set_upload_id_marker(id.clone());
                match request.send().await.map_err(|error| Failure::of(&error)) {
                    Ok(page) => Ok(Some(page)),
                    Err(failure) if failure.is_unsupported() => Ok(None),
                    Err(failure) => Err(failure),
                }
            });
            let Some(page) = page else {
                tracing::debug!("the object store does not list uploads; none are tidied away");
                return Ok(aborted);
            };
            for upload in page.uploads() {
                let begun = upload.initiated().and_then(|at| SystemTime::try_from(*at).ok());
                let (Some(begun), Some(key), Some(id)) = (begun, upload.key(), upload.upload_id())
                else {
                    continue;
                };
                // Servers may match the prefix loosely; other people's uploads are left alone.
                if begun < begun_before && key.starts_with(&prefix) {
                    self.abort(key, id).await?;
                    aborted += 1;
                }
            }
            let next = page.next_key_marker().filter(|_| page.is_truncated() == Some(true));
            let Some(next) = next else {
                return Ok(aborted);
            };
            key = Some(next.to_owned());
            id = page.next_upload_id_marker().map(str::to_owned);
        }
    }

    /// Aborts an upload in parts. One that is not there any more is aborted.
    pub async fn abort(&self, key: &str, upload: &str) -> Result<(), S3Error> {
        attempts!(self, self.patience.read(0), "abort an upload of", "", async {
            let request = self
                .s3
                .abort_multipart_upload()
                .bucket(&self.location.bucket)
                .key(key)
                .upload_id(upload);
            match request.send().await.map_err(|error| Failure::of(&error)) {
                Err(failure) if failure.code.as_deref() != Some("NoSuchUpload") => Err(failure),
                _ => Ok(()),
            }
        });
        Ok(())
    }
}

/// The object's length, if the answer has the very range of it that was asked for.
fn whole_length(found: &GetObjectOutput, range: &Range<u64>) -> Option<u64> {
    let (place, total) = found.content_range()?.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = place.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let total: u64 = total.parse().ok()?;
    let expected = range.end.min(total);
    let len = found.content_length().and_then(|len| u64::try_from(len).ok())?;
    (first == range.start && last.checked_add(1)? == expected && len == expected - range.start)
        .then_some(total)
}
