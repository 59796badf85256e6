//! Frames: what a saved file is made of, and what tells whole from damaged.
//!
//! ```text
//!   file:   "podgate\0" │ format version: u32 LE │ header frame │ frames...
//!   frame:  length of body: u32 LE │ CRC32 of length and body: u32 LE │ body
//!   body:   flags: u8 (1: ends a batch) │ written, µs since 1970: u64 LE │ records...
//! ```
//!
//! A batch counts only when its last frame is there, so a file that ends anywhere still tells a state that was. Every
//! byte is under a checksum, but for magic and version, which must be exactly so. Not here: what a record is
//! ([`record`](super::record)), and which file is which ([`store`](super::store)).

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// What every saved file begins with.
const MAGIC: [u8; 8] = *b"podgate\0";

/// The format's version: raised whenever anything in a file changes its meaning, a field of an object too. A file of
/// another version is not read: it would be a guess.
pub const FORMAT_VERSION: u32 = 1;

/// Records go into frames of about this many bytes: what a reader holds in memory.
pub(super) const FRAME_BYTES: usize = 128 << 10;

/// No frame is larger, bytes. One object is in one frame, and no source tells objects of more than some 16 MiB.
const MOST_FRAME: u32 = 64 << 20;

const PREFIX: usize = MAGIC.len() + 4;
const FRAME_HEAD: usize = 8;
const BODY_HEAD: usize = 9;
const ENDS_BATCH: u8 = 1;

/// The first frame of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    /// What the file is.
    pub(super) role: Role,
    /// A journal goes on from the snapshot of the same generation.
    pub(super) generation: u64,
    /// Whose world it is.
    pub(super) identity: String,
}

/// What a saved file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Role {
    /// Each object once, in one batch.
    Snapshot,
    /// Changes, in batches.
    Journal,
}

/// Why a file, or the rest of it, is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unsound {
    /// It can't be read.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It does not begin as a saved file does.
    #[error("is not a file of podgate's")]
    Foreign,
    /// It is of another format version.
    #[error("has format version {0}, and this podgate reads {FORMAT_VERSION} only")]
    Version(u32),
    /// It is of another cluster or node.
    #[error("belongs to '{0}'")]
    Identity(String),
    /// It is a journal in a snapshot's place, or the other way round.
    #[error("is not what its name says")]
    Role,
    /// From here on it is not what was written.
    #[error("is damaged or cut short at byte {0}")]
    Damaged(u64),
}

/// A file whose header is right, and how much of it is.
#[derive(Debug)]
pub(super) struct Sound {
    /// The header.
    pub(super) header: Header,
    /// Where its first batch begins.
    pub(super) start: u64,
    /// Where its last whole batch ends.
    pub(super) end: u64,
    /// When that was written.
    pub(super) written: Option<SystemTime>,
    /// What is wrong after that.
    pub(super) rest: Option<Unsound>,
}

/// The beginning of a file.
pub(super) fn prologue(header: &Header) -> io::Result<Vec<u8>> {
    let mut out = Vec::from(MAGIC);
    out.extend(FORMAT_VERSION.to_le_bytes());
    let start = open_frame(&mut out);
    postcard::to_io(header, &mut out).map_err(io::Error::other)?;
    close_frame(&mut out, start)?;
    Ok(out)
}

/// Appends a frame of records.
pub(super) fn push(out: &mut Vec<u8>, records: &[u8], ends_batch: bool, written: SystemTime) -> io::Result<()> {
    let start = open_frame(out);
    out.push(if ends_batch { ENDS_BATCH } else { 0 });
    let micros = written.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
    out.extend(u64::try_from(micros).unwrap_or(u64::MAX).to_le_bytes());
    out.extend(records);
    close_frame(out, start)
}

fn open_frame(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend([0; FRAME_HEAD]);
    start
}

fn close_frame(out: &mut [u8], start: usize) -> io::Result<()> {
    let length = u32::try_from(out.len() - start - FRAME_HEAD).map_err(io::Error::other)?;
    if length > MOST_FRAME {
        return Err(io::Error::other("an object is too large to be saved"));
    }
    let length = length.to_le_bytes();
    let sum = checksum(length, &out[start + FRAME_HEAD..]);
    out[start..start + 4].copy_from_slice(&length);
    out[start + 4..start + 8].copy_from_slice(&sum.to_le_bytes());
    Ok(())
}

fn checksum(length: [u8; 4], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length);
    hasher.update(body);
    hasher.finalize()
}

/// Reads all of a file and tells how much of it is as it was written.
pub(super) fn check(file: &File, role: Role, identity: &str) -> Result<Sound, Unsound> {
    let length = file.metadata()?.len();
    let header = header(file, length)?;
    let (header, start) = header;
    if header.identity != identity {
        return Err(Unsound::Identity(header.identity));
    }
    if header.role != role {
        return Err(Unsound::Role);
    }
    let mut sound = Sound { header, start, end: start, written: None, rest: None };
    let mut frames = Frames::new(file, start, length);
    loop {
        match frames.next() {
            Ok(Some(frame)) if frame.ends_batch => {
                sound.written = Some(frame.written);
                sound.end = frames.at;
            }
            Ok(Some(_)) => {}
            Ok(None) if sound.end == length => return Ok(sound),
            Ok(None) => {
                sound.rest = Some(Unsound::Damaged(length));
                return Ok(sound);
            }
            Err(unsound) => {
                sound.rest = Some(unsound);
                return Ok(sound);
            }
        }
    }
}

/// The header of a file of this length, whosever it is, and where it ends.
pub(super) fn header(file: &File, length: u64) -> Result<(Header, u64), Unsound> {
    let mut prefix = [0; PREFIX];
    if length < PREFIX as u64 {
        return Err(Unsound::Damaged(length));
    }
    file.read_exact_at(&mut prefix, 0)?;
    let (magic, version) = prefix.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(Unsound::Foreign);
    }
    match version.first_chunk().copied().map(u32::from_le_bytes) {
        Some(FORMAT_VERSION) => {}
        other => return Err(Unsound::Version(other.unwrap_or_default())),
    }
    let mut frames = Frames::new(file, PREFIX as u64, length);
    let damaged = Unsound::Damaged(PREFIX as u64);
    if !frames.advance()? {
        return Err(damaged);
    }
    match postcard::take_from_bytes(&frames.body) {
        Ok((header, [])) => Ok((header, frames.at)),
        _ => Err(damaged),
    }
}

/// A frame of records.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    /// The batch ends with it.
    pub(super) ends_batch: bool,
    /// When it was written.
    pub(super) written: SystemTime,
    /// Its records.
    pub(super) records: &'a [u8],
}

/// Reads frames, one after the other, from a part of a file; its position in the file is not used, so that several
/// can read it, and write on.
pub(super) struct Frames<'f> {
    input: BufReader<Section<'f>>,
    at: u64,
    end: u64,
    body: Vec<u8>,
}

impl<'f> Frames<'f> {
    /// The frames between two places.
    pub(super) fn new(file: &'f File, start: u64, end: u64) -> Self {
        let section = Section { file, at: start, end };
        Frames { input: BufReader::with_capacity(64 << 10, section), at: start, end, body: Vec::new() }
    }

    /// The next frame; None where the part ends with the one before.
    pub(super) fn next(&mut self) -> Result<Option<Frame<'_>>, Unsound> {
        let start = self.at;
        if !self.advance()? {
            return Ok(None);
        }
        let ((&[flags], rest), damaged) = match self.body.split_first_chunk::<1>() {
            Some(split) => (split, Unsound::Damaged(start)),
            None => return Err(Unsound::Damaged(start)),
        };
        let Some((micros, records)) = rest.split_first_chunk::<{ BODY_HEAD - 1 }>() else { return Err(damaged) };
        let written = SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(u64::from_le_bytes(*micros)));
        let Some(written) = written else { return Err(damaged) };
        Ok(Some(Frame { ends_batch: flags & ENDS_BATCH != 0, written, records }))
    }

    /// Reads the next frame's body; false at the end.
    fn advance(&mut self) -> Result<bool, Unsound> {
        let left = self.end.saturating_sub(self.at);
        if left == 0 {
            return Ok(false);
        }
        let damaged = Unsound::Damaged(self.at);
        let Some(room) = left.checked_sub(FRAME_HEAD as u64) else { return Err(damaged) };
        let (mut length, mut sum) = ([0; 4], [0; 4]);
        self.input.read_exact(&mut length)?;
        self.input.read_exact(&mut sum)?;
        let bytes = u32::from_le_bytes(length);
        // A length that the file can't hold, or that nobody wrote, must not be believed: it would be allocated.
        if u64::from(bytes) > room || bytes > MOST_FRAME {
            return Err(damaged);
        }
        self.body.resize(bytes as usize, 0);
        self.input.read_exact(&mut self.body)?;
        if checksum(length, &self.body) != u32::from_le_bytes(sum) {
            return Err(damaged);
        }
        self.at += FRAME_HEAD as u64 + u64::from(bytes);
        Ok(true)
    }
}

/// A part of a file, read without moving the file's position.
struct Section<'f> {
    file: &'f File,
    at: u64,
    end: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let n = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}
