//! `weir host`: looks at what a fast host needs, sets it, and takes back exactly what it set. It owns
//! the verdicts and the record of changes; it knows no file system, only a [`System`]. What it may
//! change is in the list of `items` alone.

mod items;
mod system;

use std::io;

use serde::{Deserialize, Serialize};

pub use system::{Host, Numbered, Of, System};

/// One thing that is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// What it is.
    pub name: String,
    /// Why it matters.
    pub why: &'static str,
    /// What it is set to.
    pub current: String,
    wanted: Wanted,
    /// Where it is set; nothing for what is not ours to set.
    place: Option<Place>,
}

/// What something should be.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    /// A number, or more, or `unlimited`.
    AtLeast(u64),
    /// One of these words; the first is what is set.
    Exactly(&'static [&'static str]),
    /// A list of one processor; this one is what is set.
    OneCpu(u32),
    /// A version, or a later one.
    Version(u64, u64),
    /// Only shown.
    Anything,
}

/// Where something is set.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    File(String),
    Interface(String, Of),
}

impl Item {
    /// Whether it is as it should be.
    pub fn is_fine(&self) -> bool {
        match &self.wanted {
            Wanted::AtLeast(least) => {
                self.current == "unlimited"
                    || self.current.parse().is_ok_and(|it: u64| it >= *least)
            }
            Wanted::Exactly(words) => words.contains(&self.current.as_str()),
            Wanted::OneCpu(_) => numbers(&self.current).len() == 1,
            Wanted::Version(major, minor) => version(&self.current) >= Some((*major, *minor)),
            Wanted::Anything => true,
        }
    }

    /// What it should be, as text.
    pub fn wanted(&self) -> String {
        match &self.wanted {
            Wanted::AtLeast(least) => least.to_string(),
            Wanted::Exactly(words) => words.first().copied().unwrap_or_default().to_owned(),
            Wanted::OneCpu(cpu) => cpu.to_string(),
            Wanted::Version(major, minor) => format!("{major}.{minor}"),
            Wanted::Anything => self.current.clone(),
        }
    }

    /// Whether `weir host init` sets it.
    pub fn is_settable(&self) -> bool {
        self.place.is_some()
    }
}

/// What was changed, so that it can be taken back.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// In the order in which they were made.
    changes: Vec<Change>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    name: String,
    /// A path, or an interface and a word of [`Of`] with a space between.
    place: String,
    before: String,
    after: String,
}

/// What became of one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Outcome {
    /// Set, or set back.
    Changed {
        /// What.
        name: String,
        /// What it was.
        from: String,
        /// What it is.
        to: String,
    },
    /// Left as it is, since somebody else has changed it since.
    Foreign {
        /// What.
        name: String,
        /// What it is.
        current: String,
        /// What we had set.
        ours: String,
    },
    /// The host does not let us.
    Failed {
        /// What.
        name: String,
        /// What it said.
        why: String,
    },
}

impl Outcome {
    /// Whether it was done.
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Changed { .. })
    }
}

/// Looks at everything; changes nothing. Without `interfaces`, at those with hardware behind them.
pub fn look(system: &dyn System, interfaces: &[String]) -> Vec<Item> {
    if interfaces.is_empty() {
        items::all(system, &items::physical(system))
    } else {
        items::all(system, interfaces)
    }
}

impl Record {
    /// Reads a record back.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// As it is kept.
    pub fn render(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// Whether there is nothing to take back.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Sets what is not as it should be. Each change is in the record, which `keep` stores, before it
    /// is made: whatever ends this in the middle, nothing was changed that is not known.
    pub fn init(
        &mut self,
        system: &mut dyn System,
        interfaces: &[String],
        keep: &mut dyn FnMut(&Self) -> io::Result<()>,
    ) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for item in look(system, interfaces) {
            let Some(place) = item.place.as_ref().filter(|_| !item.is_fine()) else { continue };
            let (name, to) = (item.name.clone(), item.wanted());
            let held = self.clone();
            self.note(&name, &place.render(), &item.current, &to);
            let set = keep(self).and_then(|()| place.set(system, &to));
            match set.and_then(|()| place.get(system)) {
                Ok(now) if now == to => {
                    outcomes.push(Outcome::Changed { name, from: item.current, to });
                }
                result => {
                    let why = match result {
                        Ok(now) => format!("it became {now}, not {to}"),
                        Err(error) => error.to_string(),
                    };
                    // What became something else is still ours to take back.
                    match place.get(system) {
                        Ok(now) if now != item.current => {
                            self.note(&name, &place.render(), &item.current, &now);
                        }
                        _ => *self = held,
                    }
                    let _ = keep(self);
                    outcomes.push(Outcome::Failed { name, why });
                }
            }
        }
        outcomes
    }

    fn note(&mut self, name: &str, place: &str, before: &str, after: &str) {
        if let Some(known) = self.changes.iter_mut().find(|change| change.place == place) {
            // What we had set and set anew goes back to what it was at first; what somebody else
            // set meanwhile goes back to theirs.
            if known.after != before && known.before != before {
                before.clone_into(&mut known.before);
            }
            after.clone_into(&mut known.after);
            return;
        }
        let [name, place, before, after] = [name, place, before, after].map(str::to_owned);
        self.changes.push(Change { name, place, before, after });
    }

    /// Takes back what was set, the last change first. What somebody else has changed meanwhile stays as
    /// it is and in the record.
    pub fn undo(
        &mut self,
        system: &mut dyn System,
        keep: &mut dyn FnMut(&Self) -> io::Result<()>,
    ) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for change in self.changes.clone().into_iter().rev() {
            let Change { name, place, before, after } = change.clone();
            let failed = |why: String| Outcome::Failed { name: name.clone(), why };
            let Some(at) = Place::parse(&place) else {
                outcomes.push(failed(format!("{place:?} is no place that this version sets")));
                continue;
            };
            let outcome = match at.get(system) {
                Err(error) => failed(error.to_string()),
                // Nothing to do: it never was set, or is back already.
                Ok(now) if now == before => {
                    self.changes.retain(|held| *held != change);
                    continue;
                }
                Ok(now) if now == after => match at.set(system, &before) {
                    Ok(()) => Outcome::Changed { name: name.clone(), from: after, to: before },
                    Err(error) => failed(error.to_string()),
                },
                Ok(current) => Outcome::Foreign { name: name.clone(), current, ours: after },
            };
            if outcome.is_done() {
                self.changes.retain(|held| *held != change);
            }
            outcomes.push(outcome);
            let _ = keep(self);
        }
        let _ = keep(self);
        outcomes
    }
}

impl Place {
    fn render(&self) -> String {
        match self {
            Self::File(path) => path.clone(),
            Self::Interface(name, of) => format!("{name} {}", of.word()),
        }
    }

    /// Only what this program could have written: a record is no way to write elsewhere.
    fn parse(text: &str) -> Option<Self> {
        if let Some((name, word)) = text.split_once(' ') {
            return Some(Self::Interface(name.to_owned(), Of::from_word(word)?));
        }
        let known = ["/proc/sys/", "/proc/irq/", "/sys/devices/system/cpu/"];
        let is_plain = !text.split('/').any(|part| part == "..");
        (is_plain && known.iter().any(|start| text.starts_with(start)))
            .then(|| Self::File(text.to_owned()))
    }

    fn get(&self, system: &dyn System) -> io::Result<String> {
        match self {
            Self::File(path) => system.read(path),
            Self::Interface(name, of) => Ok(system.interface(name, *of)?.value.to_string()),
        }
    }

    fn set(&self, system: &mut dyn System, value: &str) -> io::Result<()> {
        match self {
            Self::File(path) => system.write(path, value),
            Self::Interface(name, of) => {
                let value = value.parse().map_err(|_| io::ErrorKind::InvalidInput)?;
                system.set_interface(name, *of, value)
            }
        }
    }
}

/// The numbers in a list such as `0-3,6`; at most as many as a machine has processors.
fn numbers(text: &str) -> Vec<u32> {
    const MOST: usize = 8_192;
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    text.split(',').filter_map(range).flatten().take(MOST).collect()
}

/// The first two numbers of a version.
fn version(text: &str) -> Option<(u64, u64)> {
    let mut parts = text.split(['.', '-', '+']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests;
