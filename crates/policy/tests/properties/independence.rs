//! The reference is worth something only while the compiler does not use it.

use std::fs;
use std::path::Path;

fn sources(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push((path.display().to_string(), fs::read_to_string(&path).unwrap()));
        }
    }
}

#[test]
fn compiler_and_reference_share_no_code() {
    let mut found = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    let (reference, compiler): (Vec<_>, Vec<_>) = found.iter().partition(|(path, _)| path.contains("reference"));
    assert!(reference.len() > 1 && compiler.len() > 1);
    let code = |text: &str| {
        let lines = text.lines().map(str::trim_start).filter(|l| !l.starts_with("//"));
        lines.map(|l| format!("{l}\n")).collect::<String>()
    };
    for (path, text) in compiler {
        assert!(!code(text).contains("reference::"), "{path} uses the reference evaluator that it is checked against");
    }
    for (path, text) in reference {
        for compiled in ["index::", "compile::", "Snapshot", "Index"] {
            assert!(!code(text).contains(compiled), "{path} uses {compiled} of the compiler that it checks");
        }
    }
}
