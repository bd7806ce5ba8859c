//! The hosts that a script can be carried out on.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What stands below the guest's virtual-memory system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HostKind {
    /// A guest kernel on KVM, with this host's locks and syncs behind its hypercalls.
    #[default]
    Kvm,
    /// This host's locks and syncs, called directly: no guest kernel, software page tables.
    Hosted,
    /// A model: nothing is locked and nothing is written.
    Fake,
}

impl HostKind {
    /// All of them, the most real first.
    pub const ALL: [Self; 3] = [Self::Kvm, Self::Hosted, Self::Fake];

    /// Returns the name that users write.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Hosted => "hosted",
            Self::Fake => "fake",
        }
    }

    /// Returns what the host is, for people.
    #[must_use]
    pub const fn description(self) -> &'static str {
        match self {
            Self::Kvm => "KVM",
            Self::Hosted => "hosted: this host's locks and syncs, page tables in software, no KVM",
            Self::Fake => "fake: a model that locks nothing and writes nothing",
        }
    }

    /// Returns the layer that is to be suspected where this host alone has another result.
    #[must_use]
    pub const fn layer(self) -> &'static str {
        match self {
            Self::Kvm => "the guest image or KVM",
            Self::Hosted => "hosted (the host's services)",
            Self::Fake => "the fake",
        }
    }
}

impl fmt::Display for HostKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What the user asks a script to be carried out on: one host, or each in turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum On {
    /// A guest kernel in a KVM virtual machine
    #[default]
    Kvm,
    /// This process: the same memory system over the same locks and syncs, without KVM
    Hosted,
    /// A model of a host that locks and writes nothing
    Fake,
    /// Each of them, with every difference of their results told
    All,
}

impl On {
    /// Returns the one host that is asked for, if it is one.
    #[must_use]
    pub const fn one(self) -> Option<HostKind> {
        match self {
            Self::Kvm => Some(HostKind::Kvm),
            Self::Hosted => Some(HostKind::Hosted),
            Self::Fake => Some(HostKind::Fake),
            Self::All => None,
        }
    }
}

impl From<HostKind> for On {
    fn from(host: HostKind) -> Self {
        match host {
            HostKind::Kvm => Self::Kvm,
            HostKind::Hosted => Self::Hosted,
            HostKind::Fake => Self::Fake,
        }
    }
}

impl fmt::Display for On {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.one().map_or("all", HostKind::name))
    }
}

#[cfg(test)]
mod test {
    use super::{HostKind, On};
    use clap::ValueEnum;

    #[test]
    fn names_of_the_hosts_are_the_choices_of_the_command_line() {
        let choices: Vec<String> = On::value_variants().iter().map(ToString::to_string).collect();
        assert_eq!(choices, ["kvm", "hosted", "fake", "all"]);
        for choice in On::value_variants() {
            let name = choice.to_possible_value().expect("every choice can be written").get_name().to_owned();
            assert_eq!(name, choice.to_string());
        }
        assert!(HostKind::ALL.into_iter().all(|host| On::from(host).one() == Some(host)));
        assert_eq!(On::All.one(), None);
    }
}
