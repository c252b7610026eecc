//! Holds the shape of the workspace: which own crate may use which, what the sans-IO cores may reach at all, and the
//! bans, licences and sources of deny.toml. It reads `cargo metadata`, so it sees what cargo builds and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

/// Crates that measure and prove; they may use every other one, and no other one may use them.
const PROOF: &[&str] = &["weir-bench", "weir-fuzz"];

/// Every edge between all other own crates that the design allows.
const ALLOWED: &[(&str, &[&str])] = &[
    ("weir-ring", &[]),
    ("weir-xdp", &["weir-ring"]),
    ("weir-packager", &[]),
    ("weir-feed", &["weir-packager"]),
    ("weir-moqt", &[]),
    ("weir-relay", &["weir-moqt"]),
    ("weir-control", &[]),
    ("weir-host", &[]),
    // Not among the cores below: web-transport-proto brings tokio for readers of its own, which are not used.
    ("weir-wt", &["weir-moqt"]),
    (
        "weir",
        &[
            "weir-control",
            "weir-feed",
            "weir-host",
            "weir-moqt",
            "weir-packager",
            "weir-relay",
            "weir-ring",
            "weir-wt",
            "weir-xdp",
        ],
    ),
];

/// Crates that take bytes and time as arguments: none of them may reach a runtime or a socket, however indirectly.
const CORES: &[&str] = &["weir-moqt", "weir-relay", "weir-feed", "weir-packager", "weir-ring"];

/// Runtimes and socket crates.
const OUTSIDE_WORLD: &[&str] = &[
    "async-io",
    "async-std",
    "glommio",
    "glommio-ng",
    "hyper",
    "io-uring",
    "mio",
    "polling",
    "quinn",
    "quinn-udp",
    "rustix",
    "smol",
    "socket2",
    "tokio",
    "web-transport-quinn",
    "xsk-rs",
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
    workspace_members: Vec<String>,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<NodeDependency>,
}

#[derive(Deserialize)]
struct NodeDependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    kind: Option<String>,
}

impl Metadata {
    fn read() -> Self {
        let text = cargo(&["metadata", "--format-version", "1"], "--filter-platform");
        serde_json::from_str(&text).expect("cargo metadata is JSON")
    }

    fn own(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| self.workspace_members.contains(&package.id))
    }

    /// All packages that get built for this platform, tests and build scripts included. Asked of `cargo tree`:
    /// metadata unites the features of all platforms, and so shows edges that no build follows.
    fn built(&self) -> impl Iterator<Item = &Package> {
        let lines =
            cargo(&["tree", "--workspace", "--prefix", "none", "--edges", "all"], "--target");
        let used: BTreeSet<(String, String)> = lines
            .lines()
            .filter_map(|line| {
                let mut words = line.split_whitespace();
                Some((words.next()?.to_owned(), words.next()?.strip_prefix('v')?.to_owned()))
            })
            .collect();
        assert!(used.len() > 100, "cargo tree lists the tree:\n{lines}");
        self.packages
            .iter()
            .filter(move |package| used.contains(&(package.name.clone(), package.version.clone())))
    }

    /// Everything that ends up linked into `name`: normal dependencies of normal dependencies.
    fn linked_into(&self, name: &str) -> BTreeSet<&str> {
        let nodes: BTreeMap<&str, &Node> =
            self.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
        let names: BTreeMap<&str, &str> = self
            .packages
            .iter()
            .map(|package| (package.id.as_str(), package.name.as_str()))
            .collect();
        let start = self.own().find(|package| package.name == name).expect("an own crate");
        let mut seen = BTreeSet::new();
        let mut todo = vec![start.id.as_str()];
        while let Some(id) = todo.pop() {
            for dependency in &nodes[id].deps {
                let normal = dependency.dep_kinds.iter().any(|kind| kind.kind.is_none());
                if normal && seen.insert(dependency.pkg.as_str()) {
                    todo.push(&dependency.pkg);
                }
            }
        }
        seen.into_iter().map(|id| names[id]).collect()
    }
}

/// Runs cargo on the workspace for the platform that counts.
fn cargo(arguments: &[&str], platform_flag: &str) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .args(["--locked", platform_flag, "x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo prints text")
}

/// Asked at run time: with a shared target folder the binary may have been built elsewhere.
fn root() -> PathBuf {
    let bench = std::env::var("CARGO_MANIFEST_DIR").expect("set by cargo test");
    Path::new(&bench).parent().expect("bench lies in the root").to_path_buf()
}

fn rules() -> toml::Table {
    let text = std::fs::read_to_string(root().join("deny.toml")).expect("deny.toml is readable");
    text.parse().expect("deny.toml is TOML")
}

fn forbidden_edges(edges: &[(String, String)]) -> Vec<String> {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    edges
        .iter()
        .filter(|(from, to)| {
            !PROOF.contains(&from.as_str())
                && !allowed.get(from.as_str()).is_some_and(|list| list.contains(&to.as_str()))
        })
        .map(|(from, to)| format!("{from} -> {to}"))
        .collect()
}

#[test]
fn own_crates_depend_in_the_designed_direction_only() {
    let metadata = Metadata::read();
    let names: BTreeSet<&str> = metadata.own().map(|package| package.name.as_str()).collect();
    let edges: Vec<(String, String)> = metadata
        .own()
        .flat_map(|package| {
            package
                .dependencies
                .iter()
                // A dev-dependency is an edge too: a test that needs the other crate belongs above both.
                .filter(|dependency| names.contains(dependency.name.as_str()))
                .map(|dependency| (package.name.clone(), dependency.name.clone()))
        })
        .collect();
    assert!(edges.len() > 5, "the workspace has edges to judge: {edges:?}");
    assert_eq!(forbidden_edges(&edges), Vec::<String>::new());
    for name in names {
        assert!(
            PROOF.contains(&name) || ALLOWED.iter().any(|(known, _)| *known == name),
            "{name} has no row in the table of allowed edges"
        );
    }
}

#[test]
fn an_edge_from_the_relay_to_the_packager_is_refused() {
    let edge = |from: &str, to: &str| (from.to_owned(), to.to_owned());
    let edges = [
        edge("weir-relay", "weir-packager"),
        edge("weir-relay", "weir-moqt"),
        edge("weir-new", "weir-moqt"),
    ];
    assert_eq!(forbidden_edges(&edges), ["weir-relay -> weir-packager", "weir-new -> weir-moqt"]);
}

#[test]
fn cores_reach_no_runtime_and_no_socket() {
    let metadata = Metadata::read();
    for core in CORES {
        let linked = metadata.linked_into(core);
        let outside: Vec<&&str> =
            OUTSIDE_WORLD.iter().filter(|name| linked.contains(**name)).collect();
        assert!(outside.is_empty(), "{core} reaches {outside:?}");
    }
    let engine = metadata.linked_into("weir");
    assert!(engine.contains("tokio") && engine.contains("glommio-ng"), "the probe sees runtimes");
}

#[test]
fn banned_crates_are_not_built() {
    let rules = rules();
    let banned: Vec<&str> = rules["bans"]["deny"]
        .as_array()
        .expect("a list of bans")
        .iter()
        .map(|ban| ban["crate"].as_str().expect("a crate name"))
        .collect();
    assert!(banned.contains(&"ring"));
    let metadata = Metadata::read();
    for package in metadata.built() {
        assert!(
            !banned.contains(&package.name.as_str()),
            "{} is banned by deny.toml",
            package.name
        );
    }
}

#[test]
fn every_dependency_comes_from_the_crate_registry() {
    for package in Metadata::read().packages {
        let known = match package.source.as_deref() {
            None => true, // A path in this tree.
            Some(source) => source.starts_with("registry+"),
        };
        assert!(known, "{} comes from {:?}", package.name, package.source);
    }
}

#[test]
fn every_licence_is_on_the_list() {
    let rules = rules();
    let strings = |value: &toml::Value| -> BTreeSet<String> {
        let list = value.as_array().expect("a list");
        list.iter().map(|item| item.as_str().expect("a string").to_owned()).collect()
    };
    let allowed = strings(&rules["licenses"]["allow"]);
    let exceptions: BTreeMap<&str, BTreeSet<String>> = rules["licenses"]["exceptions"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|item| (item["crate"].as_str().expect("a name"), strings(&item["allow"])))
        .collect();
    let metadata = Metadata::read();
    for package in metadata.built() {
        let licence = package.license.as_deref().unwrap_or_default();
        let also = exceptions.get(package.name.as_str());
        let permits = |id: &str| allowed.contains(id) || also.is_some_and(|list| list.contains(id));
        assert!(licence_permitted(licence, &permits), "{}: {licence}", package.name);
    }
}

#[test]
fn licence_expressions_are_read_as_spdx_means_them() {
    let mit = |id: &str| id == "MIT" || id == "Apache-2.0 WITH LLVM-exception";
    for (expression, permitted) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("MIT AND GPL-3.0", false),
        ("MIT AND (GPL-3.0 OR MIT)", true),
        ("(MIT OR ISC) AND ISC", false),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("", false),
    ] {
        assert_eq!(licence_permitted(expression, &mit), permitted, "{expression:?}");
    }
}

#[test]
fn the_core_check_covers_dependencies_of_dependencies() {
    // The packager is linked into the feed, so anything the packager reached would count against both.
    assert!(Metadata::read().linked_into("weir-feed").contains("weir-packager"));
}

/// Whether an SPDX expression can be satisfied by licences that `permits` accepts. `/` is the old spelling of OR.
fn licence_permitted(expression: &str, permits: &dyn Fn(&str) -> bool) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut position = 0;
    let permitted = any_of(&tokens, &mut position, permits);
    permitted && position == tokens.len()
}

fn any_of(tokens: &[&str], position: &mut usize, permits: &dyn Fn(&str) -> bool) -> bool {
    let mut permitted = all_of(tokens, position, permits);
    while tokens.get(*position) == Some(&"OR") {
        *position += 1;
        permitted |= all_of(tokens, position, permits);
    }
    permitted
}

fn all_of(tokens: &[&str], position: &mut usize, permits: &dyn Fn(&str) -> bool) -> bool {
    let mut permitted = one(tokens, position, permits);
    while tokens.get(*position) == Some(&"AND") {
        *position += 1;
        permitted &= one(tokens, position, permits);
    }
    permitted
}

fn one(tokens: &[&str], position: &mut usize, permits: &dyn Fn(&str) -> bool) -> bool {
    let Some(token) = tokens.get(*position) else { return false };
    *position += 1;
    if *token == "(" {
        let permitted = any_of(tokens, position, permits);
        *position += 1;
        return permitted;
    }
    if tokens.get(*position) == Some(&"WITH") {
        let exception = tokens.get(*position + 1).copied().unwrap_or_default();
        *position += 2;
        return permits(&format!("{token} WITH {exception}"));
    }
    permits(token)
}
