//! Running the binary as people do, in a directory of its own.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::Write;
use std::process::{Command, Stdio};

/// A directory with files, and the binary run in it (so that its output has no random paths).
pub(crate) struct Desk {
    directory: tempfile::TempDir,
}

/// What a run said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Desk {
    /// With these files; a name may have folders.
    pub(crate) fn new(files: &[(&str, &str)]) -> Self {
        let desk = Desk { directory: tempfile::tempdir().unwrap() };
        files.iter().for_each(|(name, text)| desk.write(name, text));
        desk
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Runs `podgate` with the words of this line.
    pub(crate) fn run(&self, line: &str) -> Said {
        self.run_with(line, "")
    }

    /// The same, with environment variables.
    pub(crate) fn run_in(&self, environment: &[(&str, &str)], line: &str) -> Said {
        self.start(environment, line, "")
    }

    /// The same, with standard input.
    pub(crate) fn run_with(&self, line: &str, input: &str) -> Said {
        self.start(&[], line, input)
    }

    fn start(&self, environment: &[(&str, &str)], line: &str, input: &str) -> Said {
        let mut child = Command::new(env!("CARGO_BIN_EXE_podgate"))
            .args(line.split_whitespace())
            .current_dir(self.directory.path())
            .env_clear()
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        let writer = std::thread::spawn(move || {
            // A command that fails early does not read it.
            let _ = stdin.write_all(input.as_bytes());
        });
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        Said {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Said {
    /// The output, of a run that ended with this code and said nothing on standard error.
    #[track_caller]
    pub(crate) fn out(&self, code: i32) -> &str {
        assert_eq!((self.code, self.err.as_str()), (code, ""), "{self:?}");
        &self.out
    }

    /// What standard error says of a usage or input error; nothing may have been judged.
    #[track_caller]
    pub(crate) fn input_error(&self) -> &str {
        assert_eq!((self.code, self.out.as_str()), (2, ""), "{self:?}");
        &self.err
    }
}
