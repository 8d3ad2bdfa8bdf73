//! Tables of open things, reached by number.

use crate::status::{Fault, fault, pl_status::*};
use std::sync::{Arc, Mutex, MutexGuard};

/// A handle: kind in the top byte, generation in the middle, place in the table in the low 16 bits.
///
/// 40 bits of generation: a place would have to be used a million million times for an old handle to fit again.
const PLACE_BITS: u32 = 16;
const KIND_SHIFT: u32 = 56;
const GENERATIONS: u64 = 1 << (KIND_SHIFT - PLACE_BITS);

struct Place<T> {
    generation: u64,
    value: Option<Arc<T>>,
}

pub(crate) struct Table<T> {
    kind: u8,
    name: &'static str,
    places: Mutex<Vec<Place<T>>>,
}

impl<T> Table<T> {
    pub(crate) const fn new(kind: u8, name: &'static str) -> Self {
        Self { kind, name, places: Mutex::new(Vec::new()) }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Place<T>>> {
        // No holder of the lock panics half way.
        self.places.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(crate) fn insert(&self, value: T) -> Result<u64, Fault> {
        let value = Some(Arc::new(value));
        let mut places = self.lock();
        let place = match places.iter().position(|place| place.value.is_none()) {
            Some(place) => place,
            None if places.len() < 1 << PLACE_BITS => {
                places.push(Place { generation: 0, value: None });
                places.len() - 1
            }
            None => {
                return Err(fault(PL_ERR_LIMIT, format!("65536 {}s are open; close some", self.name)));
            }
        };
        let generation = (places[place].generation + 1) % GENERATIONS;
        places[place] = Place { generation, value };
        Ok(u64::from(self.kind) << KIND_SHIFT | generation << PLACE_BITS | place as u64)
    }

    pub(crate) fn get(&self, id: u64) -> Result<Arc<T>, Fault> {
        let places = self.lock();
        self.find(&places, id).and_then(|at| places[at].value.clone()).ok_or_else(|| self.unknown(id))
    }

    /// Takes it out of the table; whoever holds it still goes on holding it.
    pub(crate) fn remove(&self, id: u64) -> Result<Arc<T>, Fault> {
        let mut places = self.lock();
        let at = self.find(&places, id).ok_or_else(|| self.unknown(id))?;
        places[at].value.take().ok_or_else(|| self.unknown(id))
    }

    fn find(&self, places: &[Place<T>], id: u64) -> Option<usize> {
        let at = (id & ((1 << PLACE_BITS) - 1)) as usize;
        let fits = id >> KIND_SHIFT == u64::from(self.kind)
            && places.get(at)?.generation == (id >> PLACE_BITS) % GENERATIONS;
        fits.then_some(at)
    }

    fn unknown(&self, id: u64) -> Fault {
        let name = self.name;
        fault(
            PL_ERR_HANDLE,
            match id {
                0 => format!("the {name} handle is null; open one"),
                _ => format!("{id:#x} is no open {name}: it was closed, or never was one"),
            },
        )
    }
}
