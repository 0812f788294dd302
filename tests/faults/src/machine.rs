//! The environment of a server: its process, disk, clock and database, each of which can be made to fail.

use crate::fault::Abilities;
use keyward_harness::{ControlPlane, Failure, Postgres, Result, TestDir, artifacts};
use rustix::process::{Pid, Resource, Rlimit, Signal};
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The size of the file system for the full-disk fault.
const DISK: &str = "size=96m";

/// The paths of libfaketime in common distributions.
const FAKETIME: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib64/faketime/libfaketime.so.1",
    "/usr/lib/faketime/libfaketime.so.1",
];

/// The machine of one server.
#[derive(Debug)]
pub struct Machine {
    /// The server.
    pub plane: ControlPlane,
    /// The database, unless it is SQLite.
    pub postgres: Option<Postgres>,
    clock: Option<PathBuf>,
    disk: Option<Disk>,
    dir: TestDir,
}

impl Machine {
    /// Prepares a machine; only its PostgreSQL, if requested, is started.
    pub fn new(on_postgres: bool) -> Result<Self> {
        let dir = TestDir::new()?;
        let data = dir.path().join("data");
        fs::create_dir(&data).map_err(|error| failure("the data directory", &error))?;
        let disk = if on_postgres { None } else { Disk::mount(&data) };
        let mut environment = Vec::new();
        let clock = FAKETIME.iter().find(|path| Path::new(path).exists()).map(|library| {
            let file = dir.path().join("clock");
            for (name, value) in [
                ("LD_PRELOAD", (*library).to_owned()),
                ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
                ("FAKETIME_NO_CACHE", "1".to_owned()),
                ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ] {
                environment.push((name.to_owned(), value));
            }
            file
        });
        let postgres = if on_postgres { Some(Postgres::start(&dir.path().join("postgres"))?) } else { None };
        if let Some(postgres) = &postgres {
            environment.push(("KEYWARD_DATABASE_URL".to_owned(), postgres.url().to_owned()));
        }
        // A write beyond the limit returns an error only if the signal is ignored; otherwise it would kill the server.
        let script = dir.path().join("keyward");
        let keyward = artifacts::keyward()?;
        fs::write(&script, format!("#!/bin/sh\ntrap '' XFSZ\nexec '{}' \"$@\"\n", keyward.display()))
            .and_then(|()| fs::set_permissions(&script, fs::Permissions::from_mode(0o755)))
            .map_err(|error| failure("the script that starts the server", &error))?;
        let plane = ControlPlane::new(dir.path(), "keyward")?.program(&script).environment(&environment);
        let machine = Self { plane, postgres, clock, disk, dir };
        machine.set_clock(0)?;
        Ok(machine)
    }

    /// The faults that are possible here.
    pub fn abilities(&self) -> Abilities {
        Abilities { limits: cfg!(target_os = "linux"), own_disk: self.disk.is_some(), clock: self.clock.is_some() }
    }

    /// Sends a signal to the server.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process()?.signal(signal)
    }

    /// Limits the server's files to the size of the largest plus this many bytes, or removes the limit.
    pub fn limit_files(&mut self, beyond: Option<u64>) -> Result<()> {
        let largest = fs::read_dir(self.plane.data_dir())
            .into_iter()
            .flatten()
            .filter_map(|file| file.ok()?.metadata().ok())
            .map(|file| file.len())
            .max();
        self.limit(Resource::Fsize, beyond.map(|beyond| largest.unwrap_or_default() + beyond))
    }

    /// Limits the server's open files to the current number plus this many, or removes the limit.
    pub fn limit_descriptors(&mut self, beyond: Option<u64>) -> Result<()> {
        let id = self.process()?.id();
        let open = fs::read_dir(format!("/proc/{id}/fd")).map_or(0, |files| files.count() as u64);
        self.limit(Resource::Nofile, beyond.map(|beyond| open + beyond))
    }

    #[cfg(target_os = "linux")]
    fn limit(&mut self, resource: Resource, current: Option<u64>) -> Result<()> {
        let id = i32::try_from(self.process()?.id()).ok().and_then(Pid::from_raw);
        let before = rustix::process::getrlimit(resource);
        let limit = Rlimit { current: current.or(before.maximum), maximum: before.maximum };
        rustix::process::prlimit(id, resource, limit)
            .map(drop)
            .map_err(|error| Failure::new(format!("a limit of the server: {error}")))
    }

    #[cfg(not(target_os = "linux"))]
    fn limit(&mut self, _: Resource, _: Option<u64>) -> Result<()> {
        Err(Failure::new("limits of another process cannot be set on this platform"))
    }

    /// Fills the disk except for this many bytes, or frees it again.
    pub fn fill_disk(&mut self, but: Option<u64>) -> Result<()> {
        self.disk.as_mut().ok_or_else(|| Failure::new("expected a separate disk"))?.fill(but)
    }

    /// Sets the server's clock ahead of the machine's, or behind it.
    pub fn set_clock(&self, seconds: i32) -> Result<()> {
        let Some(file) = &self.clock else { return Ok(()) };
        // Replaced atomically, so that it is never read half-written.
        let next = file.with_extension("next");
        fs::write(&next, format!("{seconds:+}\n"))
            .and_then(|()| fs::rename(&next, file))
            .map_err(|error| failure("the clock", &error))
    }

    /// The server's log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("control-plane.log")).unwrap_or_default()
    }

    fn process(&mut self) -> Result<&mut keyward_harness::process::Process> {
        self.plane.process().ok_or_else(|| Failure::new("the server is not running"))
    }
}

/// A small separate file system.
#[derive(Debug)]
struct Disk(PathBuf);

impl Disk {
    /// `None` where mounting is not permitted.
    fn mount(at: &Path) -> Option<Self> {
        if !cfg!(target_os = "linux") {
            return None;
        }
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", DISK, "keyward-faults"])
            .arg(at)
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        mounted.then(|| Self(at.to_owned()))
    }

    fn fill(&mut self, but: Option<u64>) -> Result<()> {
        let path = self.0.join("ballast");
        let Some(but) = but else {
            return fs::remove_file(&path).map_err(|error| failure("the ballast", &error));
        };
        let mut file = File::create(&path).map_err(|error| failure("the ballast", &error))?;
        let mut written: u64 = 0;
        let piece = vec![0; 64 << 10];
        while let Ok(count @ 1..) = file.write(&piece) {
            written += count as u64;
        }
        file.set_len(written.saturating_sub(but)).map_err(|error| failure("the ballast", &error))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Immediate if the server has exited, otherwise when it does.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn failure(what: &str, error: &std::io::Error) -> Failure {
    Failure::new(format!("{what}: {error}"))
}
