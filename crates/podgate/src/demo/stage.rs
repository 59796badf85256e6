//! [`Stage`]: the manifest directory of a demo, and who takes it away when the demo is gone, whatever way it ends.

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};

use super::PREFIX;
use super::examples::{Example, PODS};

/// Waits for the end of the demo (its end of the pipe closes even when it is killed), then takes away the directory
/// and the names of namespaces.
const JANITOR: &str = r#"
trap '' INT TERM HUP
cat >/dev/null
for name in /run/netns/"$1"*; do
  [ -e "$name" ] && { umount -l "$name"; rm -f "$name"; }
done 2>/dev/null
rm -rf -- "$0"
"#;

/// The demo's directory: manifests, and the agent's log.
#[derive(Debug)]
pub(super) struct Stage {
    directory: PathBuf,
    janitor: Child,
}

impl Stage {
    /// Makes the directory, with the pods in it.
    pub(super) fn build() -> Result<Self> {
        let directory = std::env::temp_dir().join(format!("{PREFIX}{}", std::process::id()));
        let mut command = Command::new("sh");
        command.args(["-c", JANITOR]).arg(&directory).arg(format!("{PREFIX}{}-", std::process::id()));
        // A process group of its own: Ctrl-C is for the demo.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let janitor = command.spawn().context("cannot start sh, which cleans up after the demo")?;
        let stage = Stage { directory, janitor };
        fs::create_dir(&stage.directory)
            .and_then(|()| fs::create_dir(stage.manifests()))
            .with_context(|| format!("cannot make {}", stage.directory.display()))?;
        stage.write("pods.yaml", PODS)?;
        Ok(stage)
    }

    /// Where the manifests are.
    pub(super) fn manifests(&self) -> PathBuf {
        self.directory.join("manifests")
    }

    /// Where `podgate status` asks the agent.
    pub(super) fn socket(&self) -> PathBuf {
        self.directory.join("agent.sock")
    }

    /// Where the agent's log is.
    pub(super) fn log(&self) -> PathBuf {
        self.directory.join("agent.log")
    }

    /// The file that acts are written to.
    pub(super) fn policy(&self) -> PathBuf {
        self.manifests().join(POLICY)
    }

    /// Puts an example in force; returns the moment just before.
    pub(super) fn show(&self, example: &Example) -> Result<Instant> {
        self.write(POLICY, &example.text())
    }

    /// Writes the expectations of an example, beside the manifests.
    pub(super) fn expect(&self, example: &Example) -> Result<PathBuf> {
        let path = self.directory.join("expectations.yaml");
        fs::write(&path, example.expectations).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Writes a manifest file as editors do: whole, by renaming; returns the moment just before the rename.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<Instant> {
        let (path, new) = (self.manifests().join(name), self.manifests().join(format!(".{name}.new")));
        let write = || -> std::io::Result<Instant> {
            fs::File::create(&new)?.write_all(text.as_bytes())?;
            let moment = Instant::now();
            fs::rename(&new, &path)?;
            Ok(moment)
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}

const POLICY: &str = "policy.yaml";

impl Drop for Stage {
    fn drop(&mut self) {
        drop(self.janitor.stdin.take());
        if !self.janitor.wait().is_ok_and(|status| status.success()) {
            // No janitor, no mounts: only the directory is left to take away.
            let _ = fs::remove_dir_all(Path::new(&self.directory));
        }
    }
}
