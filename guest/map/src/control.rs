//! How a manager gets hold of the object that a message is about.

use alloc::sync::Arc;

use crate::handle::ObjectHandle;
use crate::manager::ManagerPort;
use crate::objects::Managed;
use crate::ports::Ports;
use crate::vm::Vm;

impl<P: Ports> Vm<P> {
    /// Returns a handle of the object whose manager listens at `port` and that messages call `number`; `None` when it has ended. It
    /// keeps the object alive like any other handle, so a manager keeps it no longer than an answer takes: or it would never be
    /// told that nobody else uses the object (row O-10).
    pub fn managed_object_of(self: &Arc<Self>, port: &Arc<ManagerPort>, number: u64) -> Option<ObjectHandle<P>> {
        let mut objects = self.objects();
        let is_its = |known: &Arc<ManagerPort>| Arc::ptr_eq(known, port);
        let id = objects.table.by_number(number)?;
        objects.table[id].managed().and_then(Managed::port).filter(|known| is_its(known))?;
        objects.table[id].handles += 1;
        drop(objects);
        Some(ObjectHandle::new(Arc::clone(self), id))
    }
}
