//! What managers of memory objects do, and what objects have behind them.

use wirevm_abi::StoreName;
use wirevm_agent::Behaviour;
use wirevm_map::{KernReturn, Prot, ShouldReturn, StoreKind};

/// What backs a memory object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backing {
    /// A file of the host's.
    Store(StoreName, StoreKind),
    /// A manager of that name. Its own copy of the object's pages is memory of the object's name.
    Manager(String),
}

/// What a manager does because the script says so. Objects are its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Managing {
    /// It behaves that way from now on.
    Behave(Behaviour),
    /// It ends.
    Die,
    /// It says that a synchronization is over.
    Answer {
        /// The object.
        object: String,
        /// First byte of the object.
        offset: u64,
        /// How many bytes.
        length: u64,
        /// What became of it.
        status: KernReturn,
    },
    /// It asks for pages.
    Request {
        /// The object.
        object: String,
        /// From which page to before which; all of the object if `None`.
        pages: Option<(u64, u64)>,
        /// Which of them are to be returned.
        should_return: ShouldReturn,
        /// They are to leave the cache.
        should_flush: bool,
        /// Accesses that are forbidden from now on; `None` leaves them.
        forbidden: Option<Prot>,
    },
    /// It tells what it was asked since the last time.
    Messages,
}

/// The words for which pages a manager wants back.
pub const RETURNS: [(&str, ShouldReturn); 4] = [
    ("none", ShouldReturn::Nothing),
    ("dirty", ShouldReturn::Dirty),
    ("all", ShouldReturn::All),
    ("anything", ShouldReturn::Anything),
];

impl Managing {
    /// The words for how a manager behaves.
    pub const BEHAVIOURS: [(&str, Behaviour); 6] = [
        ("delays", Behaviour::Delays),
        ("prompt", Behaviour::Prompt),
        ("precious", Behaviour::Precious),
        ("plain", Behaviour::Plain),
        ("traps-writes", Behaviour::TrapsWrites),
        ("allows-writes", Behaviour::AllowsWrites),
    ];

    /// The other words that stand behind a manager's name.
    pub const VERBS: [&str; 4] = ["dies", "answers", "requests", "messages"];

    /// Tells whether a word says what a manager does.
    #[must_use]
    pub fn is_verb(word: &str) -> bool {
        Self::VERBS.contains(&word) || Self::BEHAVIOURS.iter().any(|(known, _)| *known == word)
    }
}
