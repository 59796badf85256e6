//! The log: where it goes and how it looks. Everything is on standard error, so that standard output is for answers.
//!
//! Not here: what is logged (each module says its own) and the rate limit of denies ([`events`](super::events)).

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people: one line each, coloured on a terminal.
    #[default]
    Text,
    /// For programs: one JSON object a line, the event's fields at its top level.
    Json,
}

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The directives make no sense.
    #[error("--log {directives:?}: {source}; give a level (error, warn, info, debug, trace) or target=level pairs")]
    Directives {
        /// What was given.
        directives: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The process has a log already.
    #[error("the log is set up already: it can be done once in a process")]
    Twice,
}

/// Sets the process's log up; once, before the first line. `directives` is a level or what
/// [`EnvFilter`] reads, such as `info,podgate::deny=off`.
pub(crate) fn init(directives: &str, format: LogFormat) -> Result<(), Error> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(directives)?)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init(),
    }
    .map_err(|_| Error::Twice)
}

fn filter(directives: &str) -> Result<EnvFilter, Error> {
    EnvFilter::builder()
        .parse(directives)
        .map_err(|source| Error::Directives { directives: directives.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_targets_are_understood() {
        for directives in ["info", "debug", "warn,podgate::deny=off", "podgate=trace"] {
            assert!(filter(directives).is_ok(), "{directives}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_what_was_given() {
        let error = filter("podgate=loud").expect_err("loud is no level").to_string();
        assert!(error.contains("podgate=loud") && error.contains("warn"), "{error}");
    }
}
