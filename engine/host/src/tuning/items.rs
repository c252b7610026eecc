//! What a fast host is set to: one entry for each thing, with what it is, why it matters and what it
//! should be. It owns the list and its numbers; it changes nothing.

use super::{
    Item, Place, Wanted,
    system::{Of, System},
};

/// Bytes of a socket buffer: what each shard asks for, 67 ms of 1 Gb/s.
const SOCKET_BUFFER_BYTES: u64 = 8 * 1024 * 1024;
/// Packets that may wait between a driver and a processor: 16,384 x 1,500 bytes are 20 ms of 10 Gb/s.
const BACKLOG_PACKETS: u64 = 16_384;
/// Connections that may wait to be accepted, as glommio and tokio ask for.
const WAITING_CONNECTIONS: u64 = 1_024;
/// Memory that may be pinned: 16 MiB of frames for each of 16 queues.
const PINNED_KIB: u64 = 256 * 1024;
/// Open files: one for each publisher over TCP and each page request, and then some.
const OPEN_FILES: u64 = 65_536;
/// The oldest kernel that is tested with.
const KERNEL: (u64, u64) = (6, 1);

/// Everything, for the host and for `interfaces`.
pub(super) fn all(system: &dyn System, interfaces: &[String]) -> Vec<Item> {
    let mut items = kernel(system);
    items.extend(limits(system));
    items.extend(governors(system));
    for interface in interfaces {
        items.extend(of_interface(system, interface));
    }
    items
}

/// The interfaces that have hardware behind them: a test's veth and a container's bridge are left alone.
pub(super) fn physical(system: &dyn System) -> Vec<String> {
    let names = system.list("/sys/class/net").unwrap_or_default();
    let has_device = |name: &String| system.list(&format!("/sys/class/net/{name}/device")).is_ok();
    names.into_iter().filter(has_device).collect()
}

fn file(
    system: &dyn System,
    name: &str,
    path: &str,
    wanted: Wanted,
    why: &'static str,
) -> Option<Item> {
    let current = system.read(path).ok()?;
    let place = Some(Place::File(path.to_owned()));
    Some(Item { name: name.to_owned(), why, current, wanted, place })
}

fn kernel(system: &dyn System) -> Vec<Item> {
    let sysctl = |name: &str, wanted, why| {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        file(system, name, &path, wanted, why)
    };
    let version = system.read("/proc/sys/kernel/osrelease").ok().map(|current| Item {
        name: "kernel".to_owned(),
        why: "AF_XDP with many queues, io_uring as the shards use it and BPF links are tested from this version on",
        current,
        wanted: Wanted::Version(KERNEL.0, KERNEL.1),
        place: None,
    });
    [
        version,
        sysctl(
            "net.core.rmem_max",
            Wanted::AtLeast(SOCKET_BUFFER_BYTES),
            "largest receive buffer of a socket; with less, datagrams of a burst are lost while a shard is busy for some milliseconds",
        ),
        sysctl(
            "net.core.wmem_max",
            Wanted::AtLeast(SOCKET_BUFFER_BYTES),
            "largest send buffer of a socket; with less, a picture for many viewers has to leave in many small turns",
        ),
        sysctl(
            "net.core.netdev_max_backlog",
            Wanted::AtLeast(BACKLOG_PACKETS),
            "packets that wait for a processor after the driver took them; beyond it they are dropped unseen",
        ),
        sysctl(
            "net.core.somaxconn",
            Wanted::AtLeast(WAITING_CONNECTIONS),
            "connections that may wait to be accepted: encoders and pages that come all at once after a restart",
        ),
        sysctl(
            "kernel.io_uring_disabled",
            Wanted::Exactly(&["0"]),
            "shards wait by io_uring; with 2 they do not start, with 1 only where the process is in the group io_uring_group",
        ),
        sysctl(
            "kernel.unprivileged_bpf_disabled",
            Wanted::Exactly(&["2", "1"]),
            "programs in the kernel are for those with CAP_BPF; Weir's are loaded by its keeper, which has it",
        ),
        sysctl(
            "vm.nr_hugepages",
            Wanted::Anything,
            "pages of 2 MiB set aside at boot; Weir asks for none, so what is reserved here is memory lost to it",
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn limits(system: &dyn System) -> Vec<Item> {
    let Ok(text) = system.read("/proc/self/limits") else { return Vec::new() };
    let limit = |row: &str, name: &str, wanted, per: u64, why| {
        // The soft limit is the first word after the name.
        let value =
            text.lines().find_map(|line| line.strip_prefix(row))?.split_whitespace().next()?;
        let current = match value.parse::<u64>() {
            Ok(value) => (value / per).to_string(),
            Err(_) => value.to_owned(),
        };
        Some(Item { name: name.to_owned(), why, current, wanted, place: None })
    };
    [
        limit(
            "Max locked memory",
            "limit memlock (KiB)",
            Wanted::AtLeast(PINNED_KIB),
            1024,
            "memory that a process without privileges may pin, for frames and rings; LimitMEMLOCK=infinity in the unit, or a start as root, which raises it",
        ),
        limit(
            "Max open files",
            "limit nofile",
            Wanted::AtLeast(OPEN_FILES),
            1,
            "descriptors of a process; LimitNOFILE=1048576 in the unit",
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn governors(system: &dyn System) -> Vec<Item> {
    let is_cpu = |name: &String| {
        name.strip_prefix("cpu").is_some_and(|number| number.parse::<u32>().is_ok())
    };
    let cpus = system.list("/sys/devices/system/cpu").unwrap_or_default();
    let governor = |cpu: String| {
        let path = format!("/sys/devices/system/cpu/{cpu}/cpufreq/scaling_governor");
        file(
            system,
            &format!("{cpu} governor"),
            &path,
            Wanted::Exactly(&["performance"]),
            "how the clock of a processor follows its load; raising it takes longer than a packet may wait",
        )
    };
    cpus.into_iter().filter(is_cpu).filter_map(governor).collect()
}

fn of_interface(system: &dyn System, interface: &str) -> Vec<Item> {
    let cpus = online(system);
    let item = |of: Of, label: &str, wanted: &dyn Fn(u32) -> u64, why| {
        let numbered = system.interface(interface, of).ok()?;
        // A driver that has no such thing says 0 of 0.
        (numbered.most != 0).then(|| Item {
            name: format!("{interface} {label}"),
            why,
            current: numbered.value.to_string(),
            wanted: Wanted::AtLeast(wanted(numbered.most)),
            place: Some(Place::Interface(interface.to_owned(), of)),
        })
    };
    let most = |most: u32| u64::from(most);
    let queues = |most: u32| u64::from(most.min(cpus.len().max(1) as u32));
    let mut items: Vec<Item> = [
        item(Of::Queues, "queues", &queues, "receive queues; each shard takes its packets from queues of its own, on its own processor"),
        item(Of::ReceiveRing, "receive ring", &most, "packets that a queue holds until its processor looks; a short ring loses bursts in the hardware"),
        item(Of::TransmitRing, "transmit ring", &most, "packets that wait in a queue to leave; a short ring turns long trains away"),
        item(Of::Gro, "GRO", &most, "datagrams that arrive together are handed over together, at a fraction of the cost"),
        item(Of::Gso, "GSO", &most, "up to 40 datagrams leave by one call and are cut by the device or the kernel"),
    ]
    .into_iter()
    .flatten()
    .collect();
    items.extend(interrupts(system, interface, &cpus));
    items
}

/// Interrupts of an interface: each on one processor. Which one is the operator's choice if it is made.
fn interrupts(system: &dyn System, interface: &str, cpus: &[u32]) -> Vec<Item> {
    let listed = system.list(&format!("/sys/class/net/{interface}/device/msi_irqs"));
    let mut numbers: Vec<u32> =
        listed.unwrap_or_default().iter().filter_map(|number| number.parse().ok()).collect();
    numbers.sort_unstable();
    let item = |(at, number): (usize, &u32)| {
        let cpu = cpus.get(at % cpus.len().max(1))?;
        let path = format!("/proc/irq/{number}/smp_affinity_list");
        file(
            system,
            &format!("{interface} interrupt {number}"),
            &path,
            Wanted::OneCpu(*cpu),
            "the processor that serves a queue; spread over many, packets of one shard meet on none, and irqbalance (stop it) moves them about",
        )
    };
    numbers.iter().enumerate().filter_map(item).collect()
}

/// Processors in use, from a list such as `0-3,6`.
fn online(system: &dyn System) -> Vec<u32> {
    let text = system.read("/sys/devices/system/cpu/online").unwrap_or_default();
    super::numbers(&text)
}
