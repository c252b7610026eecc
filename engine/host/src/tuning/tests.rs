//! Stories of a host that is made of a map: nothing of the machine under the test is looked at or changed.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Fake {
    files: BTreeMap<String, String>,
    interfaces: BTreeMap<(String, Of), Numbered>,
    frozen: BTreeSet<String>,
}

impl System for Fake {
    fn read(&self, path: &str) -> io::Result<String> {
        self.files.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn write(&mut self, path: &str, value: &str) -> io::Result<()> {
        if self.frozen.contains(path) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        *self.files.get_mut(path).ok_or(io::ErrorKind::NotFound)? = value.to_owned();
        Ok(())
    }

    fn list(&self, directory: &str) -> io::Result<Vec<String>> {
        let start = format!("{directory}/");
        let inside =
            self.files.keys().filter_map(|path| path.strip_prefix(&start)?.split('/').next());
        let names: BTreeSet<&str> = inside.collect();
        if names.is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(names.into_iter().map(str::to_owned).collect())
    }

    fn interface(&self, name: &str, of: Of) -> io::Result<Numbered> {
        let found = self.interfaces.get(&(name.to_owned(), of));
        found.copied().ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    fn set_interface(&mut self, name: &str, of: Of, value: u32) -> io::Result<()> {
        let held =
            self.interfaces.get_mut(&(name.to_owned(), of)).ok_or(io::ErrorKind::NotFound)?;
        if value > held.most {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        held.value = value;
        Ok(())
    }
}

/// A host as Debian leaves it, with one card of four queues.
fn plain() -> Fake {
    let files = [
        ("/proc/sys/kernel/osrelease", "6.1.0-28-amd64"),
        ("/proc/sys/net/core/rmem_max", "212992"),
        ("/proc/sys/net/core/wmem_max", "212992"),
        ("/proc/sys/net/core/netdev_max_backlog", "1000"),
        ("/proc/sys/net/core/somaxconn", "4096"),
        ("/proc/sys/kernel/unprivileged_bpf_disabled", "2"),
        (
            "/proc/self/limits",
            "Max locked memory         8388608              8388608              bytes\nMax open files            1024                 1048576              files",
        ),
        ("/sys/devices/system/cpu/online", "0-1"),
        ("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave"),
        ("/sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "performance"),
        ("/sys/devices/system/cpu/cpuidle/current_driver", "none"),
        ("/sys/class/net/lo/mtu", "65536"),
        ("/sys/class/net/eth0/device/msi_irqs/24", "msix"),
        ("/sys/class/net/eth0/device/msi_irqs/25", "msix"),
        ("/proc/irq/24/smp_affinity_list", "0-1"),
        ("/proc/irq/25/smp_affinity_list", "0"),
    ];
    let eth0 = |of, value, most| (("eth0".to_owned(), of), Numbered { value, most });
    Fake {
        files: files.map(|(path, text)| (path.to_owned(), text.to_owned())).into(),
        interfaces: [
            eth0(Of::Queues, 1, 4),
            eth0(Of::ReceiveRing, 512, 4_096),
            eth0(Of::TransmitRing, 4_096, 4_096),
            eth0(Of::Gro, 1, 1),
            eth0(Of::Gso, 0, 1),
        ]
        .into(),
        frozen: BTreeSet::new(),
    }
}

#[expect(clippy::unnecessary_wraps, reason = "storing can fail elsewhere")]
fn keep(_: &Record) -> io::Result<()> {
    Ok(())
}

fn not_fine(system: &dyn System) -> Vec<String> {
    look(system, &[]).into_iter().filter(|item| !item.is_fine()).map(|item| item.name).collect()
}

#[test]
fn look_names_what_is_missing_and_says_why_of_each() {
    let host = plain();
    assert_eq!(
        not_fine(&host),
        [
            "net.core.rmem_max",
            "net.core.wmem_max",
            "net.core.netdev_max_backlog",
            "limit memlock (KiB)",
            "limit nofile",
            "cpu0 governor",
            "eth0 queues",
            "eth0 receive ring",
            "eth0 GSO",
            "eth0 interrupt 24",
        ]
    );
    assert!(look(&host, &[]).iter().all(|item| item.why.len() > 20), "each has its reason");
    // Two processors, though the card has four queues.
    let queues = look(&host, &[]).into_iter().find(|item| item.name == "eth0 queues");
    assert_eq!(queues.map(|item| item.wanted()), Some("2".to_owned()));
}

#[test]
fn init_sets_what_is_missing_and_a_second_one_changes_nothing() {
    let mut host = plain();
    let mut record = Record::default();
    let outcomes = record.init(&mut host, &[], &mut keep);
    assert!(outcomes.iter().all(Outcome::is_done), "{outcomes:?}");
    assert_eq!(outcomes.len(), 8);
    assert_eq!(not_fine(&host), ["limit memlock (KiB)", "limit nofile"], "not ours to set");
    assert_eq!(host.files["/proc/irq/24/smp_affinity_list"], "0");
    let (after, noted) = (host.clone(), record.clone());
    assert_eq!(record.init(&mut host, &[], &mut keep), []);
    assert_eq!((host, record), (after, noted));
}

#[test]
fn undo_restores_exactly_what_init_changed_also_after_the_record_was_read_back() {
    let mut host = plain();
    let mut record = Record::default();
    record.init(&mut host, &[], &mut keep);
    // Somebody sets something that was fine, which is none of ours.
    host.files.insert("/proc/sys/net/core/somaxconn".to_owned(), "8192".to_owned());
    let mut record = Record::parse(&record.render()).expect("what was written");
    let outcomes = record.undo(&mut host, &mut keep);
    assert!(outcomes.iter().all(Outcome::is_done) && outcomes.len() == 8, "{outcomes:?}");
    let mut expected = plain();
    expected.files.insert("/proc/sys/net/core/somaxconn".to_owned(), "8192".to_owned());
    assert_eq!(host, expected);
    assert!(record.is_empty());
    assert_eq!(record.undo(&mut host, &mut keep), [], "a second one has nothing to do");
}

#[test]
fn value_that_somebody_changed_since_stays_and_is_named() {
    let mut host = plain();
    let mut record = Record::default();
    record.init(&mut host, &[], &mut keep);
    host.files.insert("/proc/sys/net/core/rmem_max".to_owned(), "33554432".to_owned());
    let outcomes = record.undo(&mut host, &mut keep);
    let foreign = Outcome::Foreign {
        name: "net.core.rmem_max".to_owned(),
        current: "33554432".to_owned(),
        ours: "8388608".to_owned(),
    };
    assert!(outcomes.contains(&foreign), "{outcomes:?}");
    assert_eq!(host.files["/proc/sys/net/core/rmem_max"], "33554432");
    assert_eq!(record.changes.len(), 1, "still known");
    // Set back to ours by hand, it can be taken back.
    host.files.insert("/proc/sys/net/core/rmem_max".to_owned(), "8388608".to_owned());
    assert!(record.undo(&mut host, &mut keep).iter().all(Outcome::is_done));
    assert_eq!(host, plain());
}

#[test]
fn value_set_anew_goes_back_to_what_it_was_before_us_or_to_somebody_elses() {
    let path = "/proc/sys/net/core/rmem_max".to_owned();
    for (meanwhile, restored) in [("212992", "212992"), ("400000", "400000")] {
        let mut host = plain();
        let mut record = Record::default();
        record.init(&mut host, &[], &mut keep);
        host.files.insert(path.clone(), meanwhile.to_owned());
        record.init(&mut host, &[], &mut keep);
        assert_eq!(host.files[&path], "8388608");
        record.undo(&mut host, &mut keep);
        assert_eq!(host.files[&path], restored);
    }
}

#[test]
fn host_that_refuses_is_said_and_leaves_no_record() {
    let mut host = plain();
    host.frozen.insert("/proc/sys/net/core/wmem_max".to_owned());
    let mut record = Record::default();
    let outcomes = record.init(&mut host, &[], &mut keep);
    let failed: Vec<_> = outcomes.iter().filter(|outcome| !outcome.is_done()).collect();
    assert!(matches!(failed[..], [Outcome::Failed { name, .. }] if name == "net.core.wmem_max"));
    assert_eq!(record.changes.len(), 7);
    record.undo(&mut host, &mut keep);
    host.frozen.clear();
    assert_eq!(host, plain());
}

#[test]
fn change_is_kept_before_it_is_made_and_is_not_made_if_it_cannot_be_kept() {
    let mut host = plain();
    let mut record = Record::default();
    let outcomes = record.init(&mut host, &[], &mut |_| Err(io::ErrorKind::StorageFull.into()));
    assert!(outcomes.iter().all(|outcome| !outcome.is_done()));
    assert_eq!(host, plain());
}

#[test]
fn record_leads_nowhere_but_to_what_is_set_here() {
    for (place, is_ours) in [
        ("/proc/sys/net/core/rmem_max", true),
        ("eth0 queues", true),
        ("/etc/passwd", false),
        ("/proc/sys/../../etc/passwd", false),
        ("eth0 mtu", false),
        ("", false),
    ] {
        assert_eq!(Place::parse(place).is_some(), is_ours, "{place}");
    }
    assert!(Record::parse("{\"changes\":[{\"place\":\"x\"}]}").is_err());
}

#[test]
fn lists_and_versions_are_read() {
    assert_eq!(numbers("0-3,6"), [0, 1, 2, 3, 6]);
    assert_eq!(numbers("0-4294967295").len(), 8_192);
    assert_eq!(numbers("x,1-"), [0; 0]);
    assert_eq!(version("6.18.44-fc-v769"), Some((6, 18)));
    assert!(version("7.0") > version("6.1"));
    assert_eq!(version("six"), None);
}
