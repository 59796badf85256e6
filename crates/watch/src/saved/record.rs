//! One record: what is known of one object. How it is written, told from its neighbours, and read back.
//!
//! ```text
//!   key length: u32 LE │ value length: u32 LE (all ones: the object is gone) │ key │ value
//! ```
//!
//! Key and value are an [`ObjectKey`] and an [`Object`] in postcard's format. The key stands by itself, so that records
//! can be merged without reading a value. Not here: what guards against damage ([`frame`](super::frame)).

use podgate_api::{Change, Object, ObjectKey};

/// The value length that says the object is gone.
const GONE: u32 = u32::MAX;

/// A record that does not read as one.
#[derive(Debug, thiserror::Error)]
#[error("a record cannot be read: written by a podgate with other types under the same format version")]
pub(super) struct Malformed;

/// A record as it stands in a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record<'a> {
    /// The object's key, encoded.
    pub(super) key: &'a [u8],
    /// The object, encoded; None: it is gone.
    pub(super) value: Option<&'a [u8]>,
    /// All of the record.
    pub(super) raw: &'a [u8],
}

/// Appends a change as a record. Nothing is appended if it fails, which only an object of 4 GiB could do.
pub(super) fn push(out: &mut Vec<u8>, change: &Change) -> Result<(), Malformed> {
    let start = out.len();
    let done = match change {
        Change::Apply(object) => push_parts(out, &object.key(), Some(object)),
        Change::Delete(key) => push_parts(out, key, None),
    };
    done.inspect_err(|_| out.truncate(start))
}

/// A key as it stands in a record.
pub(super) fn key(key: &ObjectKey) -> Result<Vec<u8>, Malformed> {
    postcard::to_io(key, Vec::new()).map_err(|_| Malformed)
}

fn push_parts(out: &mut Vec<u8>, key: &ObjectKey, object: Option<&Object>) -> Result<(), Malformed> {
    let start = out.len();
    out.extend([0; 8]);
    postcard::to_io(key, &mut *out).map_err(|_| Malformed)?;
    let key_length = length(out.len() - start - 8)?;
    let mut value_length = GONE;
    if let Some(object) = object {
        let value = out.len();
        postcard::to_io(object, &mut *out).map_err(|_| Malformed)?;
        value_length = length(out.len() - value)?;
    }
    out[start..start + 4].copy_from_slice(&key_length.to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&value_length.to_le_bytes());
    Ok(())
}

fn length(bytes: usize) -> Result<u32, Malformed> {
    u32::try_from(bytes).ok().filter(|n| *n != GONE).ok_or(Malformed)
}

/// The first record of `bytes`, and what comes after it.
pub(super) fn split(bytes: &[u8]) -> Result<(Record<'_>, &[u8]), Malformed> {
    let (key_length, rest) = split_u32(bytes)?;
    let (value_length, rest) = split_u32(rest)?;
    let (key, rest) = rest.split_at_checked(key_length as usize).ok_or(Malformed)?;
    let (value, rest) = match value_length {
        GONE => (None, rest),
        n => rest.split_at_checked(n as usize).map(|(value, rest)| (Some(value), rest)).ok_or(Malformed)?,
    };
    Ok((Record { key, value, raw: &bytes[..bytes.len() - rest.len()] }, rest))
}

fn split_u32(bytes: &[u8]) -> Result<(u32, &[u8]), Malformed> {
    let (n, rest) = bytes.split_first_chunk::<4>().ok_or(Malformed)?;
    Ok((u32::from_le_bytes(*n), rest))
}

impl Record<'_> {
    /// The change that it was written for.
    pub(super) fn change(&self) -> Result<Change, Malformed> {
        let key: ObjectKey = whole(self.key)?;
        let Some(value) = self.value else { return Ok(Change::Delete(key)) };
        let object: Object = whole(value)?;
        if object.key() == key { Ok(Change::Apply(object)) } else { Err(Malformed) }
    }
}

/// Decodes all of the bytes; some left over mean that they were something else.
fn whole<'a, T: serde::Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Malformed> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        _ => Err(Malformed),
    }
}
