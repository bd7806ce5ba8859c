//! What is known of objects and managers.

use super::{Behind, Names, Role, Thing};

impl Names {
    /// Looks for the object of that name, whose pages the guest's own pager supplies.
    ///
    /// # Errors
    /// Why there is none.
    pub(in crate::script) fn paged_object(&self, name: &str) -> Result<(), String> {
        self.object(name)?;
        match self.things.get(name) {
            Some(Thing::Object { behind: Behind::Store, .. }) => {
                Err(format!("a store is behind '{name}': 'host hold sync' and 'host fail sync' are about storage"))
            }
            Some(Thing::Object { behind: Behind::Manager(manager), .. }) => {
                Err(format!("'{manager}' is behind '{name}': '{manager} delays' lets whoever needs it wait"))
            }
            _ => Ok(()),
        }
    }

    /// Looks for the object of that name, at whose pages somebody in the guest can fail: its own pager, or a manager.
    ///
    /// # Errors
    /// Why there is none.
    pub(in crate::script) fn object_that_fails(&self, name: &str) -> Result<(), String> {
        match self.things.get(name) {
            Some(Thing::Object { behind: Behind::Manager(_), .. }) => self.object(name),
            _ => self.paged_object(name),
        }
    }

    /// Looks for the manager of that name.
    ///
    /// # Errors
    /// Why there is none.
    pub(in crate::script) fn manager(&self, name: &str) -> Result<(), String> {
        self.task(name)?;
        match self.things.get(name) {
            Some(Thing::Task { role: Role::Manager, .. }) => Ok(()),
            _ => Err(format!("the task '{name}' is no manager: 'manager {name} task' would have made it one")),
        }
    }

    /// Looks for the object of that name, which the manager manages.
    ///
    /// # Errors
    /// Why there is none.
    pub(in crate::script) fn object_of(&self, manager: &str, name: &str) -> Result<(), String> {
        self.object(name)?;
        match self.things.get(name) {
            Some(Thing::Object { behind: Behind::Unknown, .. }) => Ok(()),
            Some(Thing::Object { behind: Behind::Manager(of), .. }) if of == manager => Ok(()),
            _ => Err(format!("'{name}' is no object of '{manager}'")),
        }
    }

    /// Returns the one object of a manager.
    ///
    /// # Errors
    /// Why there is not one.
    pub(in crate::script) fn only_object_of(&self, manager: &str) -> Result<String, String> {
        let mut objects: Vec<&str> = self
            .things
            .iter()
            .filter(|(_, thing)| thing.is_object_of(manager))
            .map(|(name, _)| name.as_str())
            .collect();
        objects.sort_unstable();
        match objects[..] {
            [only] => Ok(only.to_owned()),
            [] => Err(format!("'{manager}' has no object: 'object o manager {manager} 8 pages' makes one")),
            _ => {
                Err(format!("'{manager}' has several objects, so one of them has to be named: {}", objects.join(", ")))
            }
        }
    }
}

impl Thing {
    fn is_object_of(&self, manager: &str) -> bool {
        matches!(self, Self::Object { is_dropped: false, behind: Behind::Manager(of), .. } if of == manager)
    }
}
