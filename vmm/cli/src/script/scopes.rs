//! Names of memory, task by task.

use std::collections::HashMap;

/// Most names that are told of a scope.
const TOLD: usize = 8;

/// What names mean in each of several scopes. A scope may begin as a copy of another, which takes no time: it looks up
/// there what it does not have itself, as of then.
#[derive(Debug)]
pub(super) struct Scopes<T> {
    scopes: Vec<Scope<T>>,
    /// Counts definitions and copies, so that they can be put in order.
    clock: u64,
}

#[derive(Debug)]
struct Scope<T> {
    names: HashMap<String, (u64, T)>,
    /// The first names, for messages.
    first: Vec<String>,
    /// The scope that this one was copied from, and when.
    parent: Option<(usize, u64)>,
}

/// The scope that is there from the start.
pub(super) const MAIN: usize = 0;

impl<T> Scopes<T> {
    /// Returns scopes with [`MAIN`] alone.
    pub(super) fn new() -> Self {
        let mut scopes = Self { scopes: Vec::new(), clock: 0 };
        scopes.add(None);
        scopes
    }

    /// Adds an empty scope, or a copy of one.
    pub(super) fn add(&mut self, parent: Option<usize>) -> usize {
        self.clock += 1;
        let parent = parent.map(|parent| (parent, self.clock));
        self.scopes.push(Scope { names: HashMap::new(), first: Vec::new(), parent });
        self.scopes.len() - 1
    }

    /// Gives a name a meaning, in place of the one it has in this scope.
    pub(super) fn define(&mut self, scope: usize, name: &str, meaning: T) {
        self.clock += 1;
        if let Some(scope) = self.scopes.get_mut(scope) {
            let known = scope.names.insert(name.to_owned(), (self.clock, meaning));
            if known.is_none() && scope.first.len() < TOLD {
                scope.first.push(name.to_owned());
            }
        }
    }

    /// Returns what a name means in a scope.
    pub(super) fn get(&self, scope: usize, name: &str) -> Option<&T> {
        let (mut at, mut before) = (scope, u64::MAX);
        loop {
            let scope = self.scopes.get(at)?;
            if let Some((defined, meaning)) = scope.names.get(name)
                && *defined < before
            {
                return Some(meaning);
            }
            (at, before) = scope.parent?;
        }
    }

    /// Returns some names of a scope, for messages: `a, b`, or `a, b, … and 5 more`. Empty where there are none.
    pub(super) fn told(&self, scope: usize) -> String {
        let mut at = Some(scope);
        while let Some(scope) = at.and_then(|at| self.scopes.get(at)) {
            if !scope.first.is_empty() {
                let names = scope.first.join(", ");
                return match scope.names.len() - scope.first.len() {
                    0 => names,
                    more => format!("{names} and {more} more"),
                };
            }
            at = scope.parent.map(|(parent, _)| parent);
        }
        String::new()
    }
}

#[cfg(test)]
mod test {
    use super::{MAIN, Scopes};

    #[test]
    fn copy_has_the_names_of_its_time() {
        let mut scopes = Scopes::new();
        scopes.define(MAIN, "a", 1);
        let child = scopes.add(Some(MAIN));
        scopes.define(MAIN, "b", 2);
        scopes.define(child, "c", 3);
        let grandchild = scopes.add(Some(child));
        scopes.define(child, "d", 4);
        let names = |scope| ["a", "b", "c", "d"].map(|name| scopes.get(scope, name).copied());
        assert_eq!(names(MAIN), [Some(1), Some(2), None, None]);
        assert_eq!(names(child), [Some(1), None, Some(3), Some(4)]);
        assert_eq!(names(grandchild), [Some(1), None, Some(3), None]);
    }

    #[test]
    fn scope_tells_some_of_its_names() {
        let mut scopes = Scopes::new();
        assert_eq!(scopes.told(MAIN), "");
        (0..10).for_each(|number| scopes.define(MAIN, &format!("n{number}"), ()));
        assert_eq!(scopes.told(MAIN), "n0, n1, n2, n3, n4, n5, n6, n7 and 2 more");
        let child = scopes.add(Some(MAIN));
        assert_eq!(scopes.told(child), scopes.told(MAIN));
        scopes.define(child, "own", ());
        assert_eq!(scopes.told(child), "own");
    }
}
