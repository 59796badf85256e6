//! Which files of a directory are manifests, and their text to objects.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use podgate_api::manifest::{self, ManifestError, Parsed};

/// Whether a name is one that is passed over.
pub(super) fn is_hidden(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b".")
}

/// Whether a file of this name is a manifest.
pub(super) fn is_manifest(name: &OsStr) -> bool {
    let extension = Path::new(name).extension().map(OsStr::as_bytes);
    !is_hidden(name) && matches!(extension, Some(b"yaml" | b"yml" | b"json"))
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
            Ok(metadata) if metadata.is_file() && is_manifest(&name) => visit.file(path),
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
