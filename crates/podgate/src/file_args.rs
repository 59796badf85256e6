//! `-f MANIFESTS... REST`: the one argument shape of the commands that read manifests, as it is written in the contract.
//!
//! `-f` takes several values and may be repeated, so that a shell's `-f policies/*.yaml` works; what follows belongs to
//! it as far as the parser can see. The positionals are therefore the last values that an `-f` has beyond its first,
//! unless they stand where they cannot be taken for manifests (before `-f`, or after another option).

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

const MANIFESTS: &str = "manifests";

/// Adds `-f` and a positional for each name; none of them is required as far as the parser can see.
pub(crate) fn augment(command: Command, positionals: &[(&'static str, &'static str)]) -> Command {
    let command = command.arg(
        Arg::new(MANIFESTS)
            .short('f')
            .long("filename")
            .value_name("MANIFESTS")
            .num_args(1..)
            .action(ArgAction::Append)
            .value_parser(value_parser!(PathBuf))
            .help("Manifest files and directories (YAML or JSON; `-` is standard input); may be repeated"),
    );
    positionals.iter().fold(command, |command, (name, help)| {
        command.arg(Arg::new(*name).value_name(*name).value_parser(value_parser!(PathBuf)).help(*help))
    })
}

/// The manifests, and as many positionals as there are, but at most `wanted` out of what follows `-f`.
pub(crate) fn split(matches: &ArgMatches, names: &[&str], wanted: usize) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let mut groups = occurrences(matches, MANIFESTS);
    let mut rest: Vec<(usize, PathBuf)> = names.iter().flat_map(|name| occurrences(matches, name)).flatten().collect();
    for group in groups.iter_mut().rev() {
        while rest.len() < wanted && group.len() > 1 {
            rest.extend(group.pop());
        }
    }
    rest.sort_by_key(|(index, _)| *index);
    let paths = |values: Vec<(usize, PathBuf)>| values.into_iter().map(|(_, path)| path).collect();
    (paths(groups.into_iter().flatten().collect()), paths(rest))
}

/// The values of each occurrence of an argument, with their places on the command line.
fn occurrences(matches: &ArgMatches, id: &str) -> Vec<Vec<(usize, PathBuf)>> {
    let (Some(groups), Some(mut indices)) = (matches.get_occurrences::<PathBuf>(id), matches.indices_of(id)) else {
        return Vec::new();
    };
    let place = |path: &PathBuf, indices: &mut clap::parser::Indices<'_>| (indices.next().unwrap_or(0), path.clone());
    groups.map(|group| group.map(|path| place(path, &mut indices)).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str, wanted: usize) -> (String, String) {
        let command = Command::new("x").arg(Arg::new("output").short('o').num_args(1)).no_binary_name(true);
        let command = augment(command, &[("A", "first"), ("B", "second")][..wanted]);
        let matches = command.try_get_matches_from(line.split(' ')).unwrap();
        let (manifests, rest) = split(&matches, &["A", "B"][..wanted], wanted);
        let join = |v: Vec<PathBuf>| v.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(" ");
        (join(manifests), join(rest))
    }

    #[test]
    fn the_last_value_is_the_positional_in_every_spelling() {
        for (line, manifests, rest) in [
            ("-f a E", "a", "E"),
            ("-f a b E", "a b", "E"),
            ("-f a -f dir -f b c E", "a dir b c", "E"),
            ("E -f a", "a", "E"),
            ("E -f a b", "a b", "E"),
            ("-f a E -f b", "a b", "E"),
            ("-f a -o json E", "a", "E"),
            ("-f a b -o json E", "a b", "E"),
            ("-f a b E -o json", "a b", "E"),
            ("-o json -f a E", "a", "E"),
            ("-f a -- E", "a", "E"),
            ("-f - E", "-", "E"),
            ("-f a -", "a", "-"),
            ("- -f a", "a", "-"),
            ("-fa E", "a", "E"),
            ("--filename=a E", "a", "E"),
            ("-f a", "a", ""),
            ("E", "", "E"),
        ] {
            assert_eq!(parse(line, 1), (manifests.to_owned(), rest.to_owned()), "{line}");
        }
    }

    #[test]
    fn two_positionals_keep_their_order() {
        for (line, manifests, rest) in [
            ("-f a b F T", "a b", "F T"),
            ("F T -f a b", "a b", "F T"),
            ("F -f a T", "a", "F T"),
            ("-f a F -o json T", "a", "F T"),
            ("-f a F -f b T", "a b", "F T"),
            ("-f a -o json F T", "a", "F T"),
            ("-f a F T -f b", "a b", "F T"),
            ("-f a F", "a", "F"),
        ] {
            assert_eq!(parse(line, 2), (manifests.to_owned(), rest.to_owned()), "{line}");
        }
    }
}
