//! A dense store whose keys are never reused, so that a stale key finds nothing. It owns slots and
//! generations; it does not know what it stores.

/// Values in dense slots under keys of slot and generation.
#[derive(Debug)]
pub(crate) struct Arena<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    len: usize,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), len: 0 }
    }
}

impl<T> Arena<T> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn insert(&mut self, value: T) -> u64 {
        self.len += 1;
        if let Some(index) = self.free.pop()
            && let Some(slot) = self.slots.get_mut(index as usize)
        {
            slot.value = Some(value);
            return key(slot.generation, index);
        }
        let index = self.slots.len() as u32;
        // Generations start at 1, so that no key is ever 0.
        self.slots.push(Slot { generation: 1, value: Some(value) });
        key(1, index)
    }

    pub(crate) fn get(&self, key: u64) -> Option<&T> {
        let slot = self.slots.get(index(key))?;
        slot.value.as_ref().filter(|_| slot.generation == generation(key))
    }

    pub(crate) fn get_mut(&mut self, key: u64) -> Option<&mut T> {
        let slot = self.slots.get_mut(index(key))?;
        slot.value.as_mut().filter(|_| slot.generation == generation(key))
    }

    pub(crate) fn remove(&mut self, key: u64) -> Option<T> {
        let slot = self.slots.get_mut(index(key))?;
        if slot.generation != generation(key) {
            return None;
        }
        let value = slot.value.take()?;
        self.len -= 1;
        // A slot whose generations are used up is retired: 2^32 sessions in one slot.
        if let Some(next) = slot.generation.checked_add(1) {
            slot.generation = next;
            self.free.push(index(key) as u32);
        }
        Some(value)
    }

    /// Keys in slot order: the same for the same history, whatever the values.
    pub(crate) fn keys(&self) -> impl Iterator<Item = u64> + '_ {
        self.slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| slot.value.is_some())
            .map(|(index, slot)| key(slot.generation, index as u32))
    }
}

/// The slot of a key; dense, for tables beside the arena.
pub(crate) fn index(key: u64) -> usize {
    (key & 0xffff_ffff) as usize
}

fn generation(key: u64) -> u32 {
    (key >> 32) as u32
}

fn key(generation: u32, index: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_finds_nothing_although_its_slot_is_taken_again() {
        let mut arena = Arena::default();
        let first = arena.insert("first");
        assert_eq!(arena.remove(first), Some("first"));
        let second = arena.insert("second");
        assert_eq!(index(first), index(second));
        assert_eq!(arena.get(first), None);
        assert_eq!(arena.get_mut(first), None);
        assert_eq!(arena.remove(first), None);
        assert_eq!(arena.get(second), Some(&"second"));
        assert_eq!(arena.keys().collect::<Vec<_>>(), [second]);
        assert_eq!(arena.len(), 1);
    }
}
