//! Things worth using again, shared between the thread that reads and those that decode.

use std::sync::{Arc, Mutex, PoisonError};

/// Things kept, at most.
const KEPT_MAX: usize = 8;

/// A few spare things. Cloning shares them.
#[derive(Debug)]
pub(crate) struct Pool<T>(Arc<Mutex<Vec<T>>>);

impl<T> Pool<T> {
    pub fn new() -> Pool<T> {
        Pool(Arc::default())
    }

    pub fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    pub fn give(&self, thing: T) {
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < KEPT_MAX {
            spare.push(thing);
        }
    }
}

impl<T> Clone for Pool<T> {
    fn clone(&self) -> Pool<T> {
        Pool(self.0.clone())
    }
}
