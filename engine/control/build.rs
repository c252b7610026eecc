//! Puts the web files into the binary: everything below `relay/web/dist`, built first if missing.
//!
//! A tree without `relay/web` gives a binary without pages, which says so when asked for one. So
//! does a debug build whose web part fails, since that must not stop work on anything else; a
//! release build fails.

use std::{
    env,
    fmt::Write,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::SystemTime,
};

fn main() -> ExitCode {
    match embed() {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            println!("cargo::error={sentence}");
            ExitCode::FAILURE
        }
    }
}

fn embed() -> Result<(), String> {
    let here = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let web = here.join("../../relay/web");
    let dist = web.join("dist");
    watch(&web, &dist).map_err(|error| format!("cannot list {}: {error}", web.display()))?;
    if !dist.is_dir() && web.join("package.json").is_file() {
        match build(&web) {
            Err(Failure::Pages(sentence)) if variable("PROFILE")? == "debug" => {
                println!("cargo::warning={sentence}");
            }
            Err(Failure::Pages(sentence) | Failure::Tools(sentence)) => return Err(sentence),
            Ok(()) => {}
        }
    }
    let mut files = Vec::new();
    if dist.is_dir() {
        collect(&dist, "", &mut files)
            .map_err(|error| format!("cannot read {}: {error}", dist.display()))?;
    } else {
        println!("cargo::warning=relay/web/dist is not there: this build has no pages");
    }
    files.sort();
    let mut source = String::from("static EMBEDDED: &[(&str, &[u8])] = &[\n");
    for (name, path) in &files {
        let path = path.to_str().ok_or("the path of the source tree is not UTF-8")?;
        writeln!(source, "    ({name:?}, include_bytes!({path:?})),").map_err(|e| e.to_string())?;
    }
    source.push_str("];\n");
    let out = PathBuf::from(variable("OUT_DIR")?).join("assets.rs");
    fs::write(&out, source).map_err(|error| format!("cannot write {}: {error}", out.display()))
}

/// Asks cargo to come back when a source or a built file changes. `node_modules` is left out: it
/// is large, and what matters of it is in the lock file.
fn watch(web: &Path, dist: &Path) -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={}", dist.display());
    if !web.is_dir() {
        println!("cargo::rerun-if-changed={}", web.display());
        return Ok(());
    }
    let mut newest_source = SystemTime::UNIX_EPOCH;
    for entry in fs::read_dir(web)? {
        let entry = entry?;
        let skipped = ["dist", "node_modules"].iter().any(|name| entry.file_name() == *name);
        if !skipped {
            println!("cargo::rerun-if-changed={}", entry.path().display());
            if ["package.json", "package-lock.json", "src"].iter().any(|n| entry.file_name() == *n)
            {
                newest_source = newest_source.max(newest(&entry.path())?);
            }
        }
    }
    if dist.is_dir() && newest(dist)? < newest_source {
        println!(
            "cargo::warning=relay/web/dist is older than its sources: run `npm run build` there"
        );
    }
    Ok(())
}

/// The latest change of a file or of the files below a directory.
fn newest(path: &Path) -> io::Result<SystemTime> {
    if !path.is_dir() {
        return fs::metadata(path)?.modified();
    }
    let mut latest = SystemTime::UNIX_EPOCH;
    for entry in fs::read_dir(path)? {
        latest = latest.max(newest(&entry?.path())?);
    }
    Ok(latest)
}

/// Why the pages could not be built.
enum Failure {
    /// Their sources are at fault.
    Pages(String),
    /// The machine lacks something.
    Tools(String),
}

fn build(web: &Path) -> Result<(), Failure> {
    // npm notes here what it has installed.
    let installed = newest(&web.join("node_modules/.package-lock.json")).ok();
    let wanted = newest(&web.join("package-lock.json")).ok();
    if installed.is_none() || installed < wanted {
        npm(web, &["ci", "--no-audit", "--no-fund"])?;
    }
    npm(web, &["run", "build"])
}

fn npm(web: &Path, arguments: &[&str]) -> Result<(), Failure> {
    // Standard output belongs to cargo's instructions, so both outputs are caught.
    let output = Command::new("npm")
        .args(arguments)
        .current_dir(web)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| {
            Failure::Tools(match error.kind() {
                io::ErrorKind::NotFound => {
                    "npm is needed to build the pages in relay/web: install Node.js 20 or later"
                        .to_owned()
                }
                _ => format!("cannot run npm: {error}"),
            })
        })?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let reason = said.lines().find(|line| line.to_lowercase().contains("error"));
    let command = arguments.join(" ");
    let sentence =
        format!("`npm {command}` failed in relay/web: {}", reason.unwrap_or("it gave no reason"));
    Err(if arguments.first() == Some(&"ci") {
        Failure::Tools(sentence)
    } else {
        Failure::Pages(sentence)
    })
}

fn collect(dir: &Path, prefix: &str, files: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), &format!("{name}/"), files)?;
        } else {
            files.push((name, entry.path().canonicalize()?));
        }
    }
    Ok(())
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|_| format!("cargo did not set {name}"))
}
