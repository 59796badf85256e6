//! Which files of a directory are manifests, and their text to objects.

use std::ffi::OsStr;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use podgate_api::manifest::{self, ManifestError, Parsed};

/// The longest manifest that is read, bytes: a policy of 100,000 rules is a tenth of it, and an API server takes no object of
/// more than some 1.5 MiB.
pub(super) const MOST: u64 = 64 << 20;

/// Whether a name is one that is passed over.
pub(super) fn is_hidden(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b".")
}

/// Whether a file of this name is a manifest.
pub(super) fn is_manifest(name: &OsStr) -> bool {
    let extension = Path::new(name).extension().map(OsStr::as_bytes);
    !is_hidden(name) && matches!(extension, Some(b"yaml" | b"yml" | b"json"))
}

/// The bytes of a file, which must be a regular one: a pipe would be waited for, and a device may do things when it is
/// opened.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    regular(&std::fs::metadata(path)?)?;
    content(open(path)?)
}

/// The same of a path that the user named, which may lead to a pipe that is open already (`<(helm template …)`).
pub(super) fn read_named(path: &Path) -> io::Result<Vec<u8>> {
    // Of such a pipe there is no canonical path.
    let is_open = path.canonicalize().is_err() && std::fs::metadata(path)?.file_type().is_fifo();
    if is_open { bounded(File::open(path)?, 0) } else { read(path) }
}

/// Opens what is there without waiting for anybody, as it may be another file than it was a moment ago.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)
}

fn content(file: File) -> io::Result<Vec<u8>> {
    let metadata = file.metadata()?;
    regular(&metadata)?;
    bounded(file, metadata.len())
}

/// What there is to read, if it is no more than a manifest may be. `length` is what the file system says of it, which may be more
/// than there is room for anywhere (a sparse file), and less than it will be.
fn bounded(input: impl Read, length: u64) -> io::Result<Vec<u8>> {
    let too_large = || {
        let message = format!("it is larger than {} MiB: split it into several files", MOST >> 20);
        io::Error::new(io::ErrorKind::FileTooLarge, message)
    };
    let capacity = usize::try_from(length).ok().filter(|_| length <= MOST).ok_or_else(too_large)?;
    let mut bytes = Vec::with_capacity(capacity);
    input.take(MOST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST { Err(too_large()) } else { Ok(bytes) }
}

fn regular(metadata: &Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    let what = match () {
        () if kind.is_file() => return Ok(()),
        () if kind.is_dir() => return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory")),
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_socket() => "a socket",
        () => "a device",
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("it is {what}, and only regular files are manifests")))
}

/// Reads the text of a file.
pub(super) fn parse(path: &Path, bytes: Vec<u8>) -> Parsed {
    let file = path.display().to_string();
    match String::from_utf8(bytes) {
        Ok(text) => manifest::parse(&file, &text),
        Err(error) => {
            let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
            let message = "not valid UTF-8 text; save the file as UTF-8".to_owned();
            let error = ManifestError { file, line, field: String::new(), message, object: None };
            Parsed { errors: vec![error], ..Parsed::default() }
        }
    }
}

/// What a walk through a directory tree meets.
pub(super) trait Visit {
    /// A directory, before its entries are listed.
    fn directory(&mut self, path: &Path) -> io::Result<()>;
    /// A symbolic link, before it is followed.
    fn link(&mut self, path: &Path);
    /// A manifest.
    fn file(&mut self, path: PathBuf);
    /// A directory that can't be read.
    fn error(&mut self, path: &Path, error: io::Error);
}

/// Walks through a directory tree in name order. What goes away meanwhile is passed over, the directory itself
/// excepted.
pub(super) fn walk(directory: &Path, visit: &mut impl Visit) {
    into(directory, &mut Vec::new(), visit);
}

fn into(directory: &Path, above: &mut Vec<(u64, u64)>, visit: &mut impl Visit) {
    let listed = std::fs::metadata(directory).and_then(|metadata| {
        let id = (metadata.dev(), metadata.ino());
        // A link to a directory above itself.
        if above.contains(&id) {
            return Ok(None);
        }
        visit.directory(directory)?;
        let mut names = Vec::new();
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            if !is_hidden(&entry.file_name()) {
                names.push((entry.file_name(), entry.file_type()?.is_symlink()));
            }
        }
        names.sort();
        Ok(Some((id, names)))
    });
    let (id, names) = match listed {
        Ok(Some(listed)) => listed,
        Ok(None) => return,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !above.is_empty() => return,
        Err(error) => return visit.error(directory, error),
    };
    above.push(id);
    for (name, link) in names {
        let path = directory.join(&name);
        if link {
            visit.link(&path);
        }
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => into(&path, above, visit),
            // What is no regular file, and what can't be looked at, is told when it is read.
            Ok(_) if is_manifest(&name) => visit.file(path),
            Err(error) if error.kind() != io::ErrorKind::NotFound && is_manifest(&name) => visit.file(path),
            _ => {}
        }
    }
    above.pop();
}

/// The files a path given by the user stands for: itself, or a directory's manifests.
pub(super) fn list(path: &Path) -> io::Result<Vec<PathBuf>> {
    #[derive(Default)]
    struct Files(Vec<PathBuf>, Option<io::Error>);
    impl Visit for Files {
        fn directory(&mut self, _: &Path) -> io::Result<()> {
            Ok(())
        }
        fn link(&mut self, _: &Path) {}
        fn file(&mut self, path: PathBuf) {
            self.0.push(path);
        }
        fn error(&mut self, path: &Path, error: io::Error) {
            self.1.get_or_insert(io::Error::new(error.kind(), format!("{}: {error}", path.display())));
        }
    }
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Files::default();
    walk(path, &mut files);
    files.1.map_or(Ok(files.0), Err)
}

#[cfg(test)]
mod tests {
    use nix::sys::stat::Mode;

    use super::*;

    #[test]
    fn a_fifo_that_takes_a_files_place_before_it_is_opened_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.yaml");
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        // As `read` goes on when it has seen a regular file there.
        let error = open(&path).and_then(content).unwrap_err().to_string();
        assert!(error.contains("FIFO"), "{error}");
    }

    #[test]
    fn what_grows_beyond_all_bounds_while_it_is_read_is_refused() {
        let error = bounded(io::repeat(b'#'), 10).unwrap_err().to_string();
        assert!(error.contains("larger than 64 MiB"), "{error}");
        assert_eq!(bounded(io::repeat(b'#').take(MOST), MOST).unwrap().len() as u64, MOST);
    }

    #[test]
    fn a_pipe_that_is_open_already_is_read_where_the_user_names_it() {
        use std::os::fd::AsRawFd;
        let (reader, mut writer) = io::pipe().unwrap();
        io::Write::write_all(&mut writer, b"text").unwrap();
        drop(writer);
        let path = PathBuf::from(format!("/dev/fd/{}", reader.as_raw_fd()));
        assert_eq!(read_named(&path).unwrap(), b"text");
    }
}
