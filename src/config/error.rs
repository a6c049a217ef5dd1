//! Why a configuration cannot be used.

use std::fmt;
use std::path::PathBuf;

/// Fatal: the process ends with status 1.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write the configuration to {}: {cause}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: String,
    },
    /// Neither YAML nor JSON.
    #[error("{}: not valid YAML: {cause}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong and where.
        cause: String,
    },
    /// Another kind of object.
    #[error(
        "{}: the document at line {line} is \"{version} {kind}\"; want apiVersion kubeproxy.config.k8s.io/v1alpha1 and \
         kind KubeProxyConfiguration (or portway.io/v1alpha1, PortwayConfiguration)",
        path.display()
    )]
    Kind {
        /// The file.
        path: PathBuf,
        /// Where the document begins.
        line: usize,
        /// Its apiVersion.
        version: String,
        /// Its kind.
        kind: String,
    },
    /// Two documents of one kind.
    #[error("{}: more than one {kind}; keep one", path.display())]
    Twice {
        /// The file.
        path: PathBuf,
        /// The kind.
        kind: String,
    },
    /// No document of the kind that must be there.
    #[error("{}: no KubeProxyConfiguration in it", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A value of a wrong type.
    #[error("{}: field {field}: {cause}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The way to the field.
        field: String,
        /// What is wrong.
        cause: String,
    },
    /// A flag's value cannot be read.
    #[error("invalid argument {value:?} for \"--{flag}\": {cause}")]
    Flag {
        /// The flag's name.
        flag: &'static str,
        /// What was given.
        value: String,
        /// Why not.
        cause: String,
    },
    /// Values outside of what is allowed, all of them.
    #[error("{}", joined(problems))]
    Invalid {
        /// At least one.
        problems: Vec<InvalidField>,
    },
    /// No label has such a value.
    #[error(
        "{0:?} cannot be the value of the label service.kubernetes.io/service-proxy-name (at most 63 letters, digits, \
         '-', '_' or '.', a letter or digit at both ends): correct --service-proxy-name or serviceProxyName"
    )]
    ProxyName(String),
    /// The rules to be taken over serve everything else.
    #[error(
        "--takeover would remove the rules of the proxy that serves all other Services: leave it out where \
         --service-proxy-name (or serviceProxyName) is set"
    )]
    ForeignTakeover,
    /// Not the name of an interface.
    #[error(
        "{0:?} cannot be an interface for direct return (at most 15 letters, digits, '-', '_' or '.'): correct \
         --direct-return-devices or directReturnDevices"
    )]
    DirectDevice(String),
    /// Not the name of an interface, nor the beginning of one.
    #[error(
        "{0:?} cannot be an interface for the fast path (at most 15 letters, digits, '-', '_' or '.', and perhaps '*' for any \
         end of the name): correct --fast-path-devices or fastPathDevices"
    )]
    FastDevice(String),
    /// No name for the Node.
    #[error("this host has no name: set --hostname-override (or hostnameOverride) to the Node's name")]
    NoName,
    /// Only blanks.
    #[error("the node name must not be blank: correct --hostname-override or hostnameOverride")]
    BlankName,
}

/// A field whose value is not allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidField {
    /// The way to the field: `KubeProxyConfiguration.MetricsBindAddress`.
    pub field: String,
    /// The value as it would stand in the file.
    pub value: String,
    /// What would be right.
    pub want: String,
}

impl fmt::Display for InvalidField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: Invalid value: {}: {}", self.field, self.value, self.want)
    }
}

/// One line, with brackets if it is several, as kube-proxy writes it.
fn joined(problems: &[InvalidField]) -> String {
    let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    if texts.len() == 1 { texts.concat() } else { format!("[{}]", texts.join(", ")) }
}
