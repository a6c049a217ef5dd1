//! The flags of `run`: kube-proxy's, with its names, defaults and way of writing, and Portway's own.

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap::builder::Str;
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use super::duration::GoDuration;
use super::error::ConfigError;
use crate::model::parse_ip;

mod table;

pub use table::FLAGS;

/// What a flag's value looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueKind {
    /// `--flag`, `--flag=true`, `--flag=false`.
    Bool,
    /// Any text.
    Text,
    /// A whole number in these bounds.
    Int(i64, i64),
    /// A number.
    Float,
    /// In Go notation.
    Duration,
    /// An address.
    Ip,
    /// Comma-separated; given again it adds.
    List,
    /// `--version` or `--version=raw`.
    Version,
}

/// Whom a flag concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// A setting that a configuration file can have; ignored where there is one.
    Setting,
    /// As [`Use::Setting`], but nothing happens here for it.
    Ignored,
    /// Counts beside a configuration file, too.
    Always,
}

/// A flag of kube-proxy or of Portway.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// Without the dashes.
    pub name: &'static str,
    /// What its value looks like.
    pub kind: ValueKind,
    /// The value that counts when it is not given.
    pub default: &'static str,
    /// Whom it concerns.
    pub usage: Use,
    /// For `--help`.
    pub help: &'static str,
}

/// The flags a command line gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    given: BTreeMap<&'static str, Vec<String>>,
}

impl Flags {
    /// The value of a scalar flag if it was given; of several the last.
    pub fn given(&self, name: &str) -> Option<&str> {
        self.given.get(name)?.last().map(String::as_str)
    }

    /// A scalar flag's value, given or default.
    pub fn value(&self, name: &str) -> &str {
        let default = || FLAGS.iter().find(|flag| flag.name == name).map_or("", |flag| flag.default);
        self.given(name).unwrap_or_else(default)
    }

    /// A flag that is `true`.
    pub fn is_set(&self, name: &str) -> bool {
        parse_bool(self.value(name)).unwrap_or(false)
    }

    /// All items of a list flag; `None` if it was not given.
    pub fn list(&self, name: &str) -> Option<Vec<String>> {
        let given = self.given.get(name)?;
        let items = given.iter().flat_map(|value| value.split(',')).map(str::trim);
        Some(items.filter(|item| !item.is_empty()).map(str::to_owned).collect())
    }

    /// The value of a flag as a number, duration and so on, if it was given.
    pub fn parsed<T: std::str::FromStr>(&self, name: &'static str) -> Result<Option<T>, ConfigError>
    where
        T::Err: std::fmt::Display,
    {
        let parse = |value: &str| {
            value.parse().map_err(|cause: T::Err| ConfigError::Flag {
                flag: name,
                value: value.to_owned(),
                cause: cause.to_string(),
            })
        };
        self.given(name).map(parse).transpose()
    }

    /// Names of the flags that were given.
    pub fn names(&self) -> impl Iterator<Item = &'static Flag> + '_ {
        FLAGS.iter().filter(|flag| self.given.contains_key(flag.name))
    }

    /// Every flag with its value, sorted by name.
    pub fn all(&self) -> Vec<(String, String)> {
        let value = |flag: &Flag| match (flag.kind, self.given.get(flag.name)) {
            (ValueKind::List, Some(given)) => given.join(","),
            (ValueKind::Bool, _) => self.is_set(flag.name).to_string(),
            (ValueKind::Duration, Some(_)) => {
                let value = self.value(flag.name);
                value.parse::<GoDuration>().map_or_else(|_| value.to_owned(), |value| value.to_string())
            }
            _ => self.value(flag.name).to_owned(),
        };
        let mut all: Vec<_> = FLAGS.iter().map(|flag| (flag.name.to_owned(), value(flag))).collect();
        all.sort();
        all
    }

    /// Reads a command line that has nothing but flags, as kube-proxy's; the first word is the program.
    pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let command = Command::new("kube-proxy").disable_version_flag(true).about("Portway in the place of kube-proxy");
        let matches = Self::augment_args(command).try_get_matches_from(normalise(words))?;
        Self::from_arg_matches(&matches)
    }
}

/// Flag names may be written with `_` for `-`.
pub fn normalise(words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut is_over = false;
    let each = |word: OsString| {
        is_over |= word == "--";
        match word.to_str().filter(|text| !is_over && text.starts_with("--") && text.contains('_')) {
            None => word,
            Some(text) => {
                let (name, value) = text.split_at(text.find('=').unwrap_or(text.len()));
                format!("{}{value}", name.replace('_', "-")).into()
            }
        }
    };
    words.into_iter().map(each).collect()
}

/// As Go reads booleans.
pub(super) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn check(flag: &Flag, value: &str) -> Result<(), String> {
    match flag.kind {
        ValueKind::Bool => parse_bool(value).map(drop).ok_or_else(|| "want true or false".into()),
        ValueKind::Text | ValueKind::List => Ok(()),
        ValueKind::Int(min, max) => match value.parse::<i64>() {
            Ok(number) if (min..=max).contains(&number) => Ok(()),
            Ok(_) => Err(format!("want a number from {min} to {max}")),
            Err(_) => Err("want a whole number".into()),
        },
        ValueKind::Float => value.parse::<f64>().map(drop).map_err(|_| "want a number".into()),
        ValueKind::Duration => value.parse::<GoDuration>().map(drop).map_err(|cause| cause.to_string()),
        ValueKind::Ip => parse_ip(value).map(drop).map_err(|cause| cause.to_string()),
        ValueKind::Version if value == "raw" || parse_bool(value).is_some() => Ok(()),
        ValueKind::Version => Err("want true, false or raw".into()),
    }
}

impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        FLAGS.iter().fold(command, |command, flag| command.arg(argument(flag)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// Those flags that say what the table looks like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlanFlags(pub Flags);

/// Those flags that say where Services come from, and on which ports kube-proxy listens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceFlags(pub Flags);

/// Makes a type stand for some of the flags.
macro_rules! stands_for {
    ($type:ident, $names:expr) => {
        impl Args for $type {
            fn augment_args(command: Command) -> Command {
                let flags = FLAGS.iter().filter(|flag| $names.contains(&flag.name));
                flags.fold(command, |command, flag| command.arg(argument(flag)))
            }

            fn augment_args_for_update(command: Command) -> Command {
                Self::augment_args(command)
            }
        }

        impl FromArgMatches for $type {
            fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
                Flags::from_arg_matches(matches).map(Self)
            }

            fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
                self.0.update_from_arg_matches(matches)
            }
        }
    };
}

stands_for!(
    PlanFlags,
    [
        "hostname-override",
        "bind-address",
        "detect-local-mode",
        "cluster-cidr",
        "pod-bridge-interface",
        "pod-interface-name-prefix",
        "masquerade-all",
        "nodeport-addresses",
        "feature-gates",
        "service-proxy-name",
        "direct-return-devices",
        "fast-path-devices",
        "answer-pings",
    ]
);

stands_for!(
    SourceFlags,
    [
        "config",
        "manifests",
        "kubeconfig",
        "master",
        "hostname-override",
        "service-proxy-name",
        "healthz-bind-address",
        "metrics-bind-address",
        "healthz-port",
        "metrics-port",
    ]
);

fn argument(flag: &'static Flag) -> Arg {
    let arg = Arg::new(flag.name).long(flag.name).action(ArgAction::Append).help(flag.help);
    let arg = if flag.usage == Use::Ignored { arg.hide_short_help(true) } else { arg };
    let arg = match flag.name {
        "v" => arg.short('v'),
        "hostname-override" => arg.visible_alias("node"),
        _ => arg,
    };
    match flag.kind {
        ValueKind::Bool | ValueKind::Version => {
            arg.num_args(0..=1).require_equals(true).default_missing_value("true").value_name("BOOL")
        }
        kind => arg.num_args(1).allow_hyphen_values(true).value_name(value_name(kind)),
    }
}

fn value_name(kind: ValueKind) -> Str {
    match kind {
        ValueKind::Int(..) | ValueKind::Float => "NUMBER",
        ValueKind::Duration => "DURATION",
        ValueKind::Ip => "IP",
        ValueKind::List => "LIST",
        _ => "TEXT",
    }
    .into()
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut this = Self::default();
        this.update_from_arg_matches(matches)?;
        Ok(this)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for flag in FLAGS {
            // `render` and `explain` have some of the flags only.
            let Ok(Some(values)) = matches.try_get_many::<String>(flag.name) else { continue };
            for value in values {
                check(flag, value).map_err(|cause| {
                    let text = format!("invalid argument {value:?} for \"--{}\": {cause}", flag.name);
                    clap::Error::raw(ErrorKind::ValueValidation, text)
                })?;
                self.given.entry(flag.name).or_default().push(value.clone());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
