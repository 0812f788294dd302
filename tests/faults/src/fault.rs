//! The faults, and what a machine needs for them.

use std::fmt;
use std::time::Duration;

/// A temporary fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL to the server.
    Kill,
    /// SIGTERM to the server.
    Terminate,
    /// SIGSTOP to the server, and SIGCONT.
    Pause,
    /// Connections of clients break in the middle of a response.
    CutAnswers,
    /// Responses to clients are delayed.
    StallAnswers,
    /// Responses to clients are lost.
    DropAnswers,
    /// Connections of edges break in the middle of a page.
    CutFeed,
    /// Pages are delayed.
    StallFeed,
    /// Pages are lost.
    DropFeed,
    /// Bits of pages are flipped.
    FlipFeed,
    /// The server's files cannot grow, as with a disk quota.
    FileSize,
    /// The server's files cannot grow, and it is killed meanwhile.
    FileSizeAndKill,
    /// The disk is full.
    DiskFull,
    /// The disk is full, and the server is killed meanwhile.
    DiskFullAndKill,
    /// The server can open no more files.
    Descriptors,
    /// The server's clock jumps forward or backward.
    Clock,
    /// PostgreSQL is killed and restarted.
    PostgresKill,
}

/// The capabilities of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// Whether limits of another process can be set (Linux).
    pub limits: bool,
    /// Whether the data are on a separate file system.
    pub own_disk: bool,
    /// Whether libfaketime is installed.
    pub clock: bool,
}

impl Fault {
    /// All faults.
    pub const ALL: [Self; 17] = [
        Self::Kill,
        Self::Terminate,
        Self::Pause,
        Self::CutAnswers,
        Self::StallAnswers,
        Self::DropAnswers,
        Self::CutFeed,
        Self::StallFeed,
        Self::DropFeed,
        Self::FlipFeed,
        Self::FileSize,
        Self::FileSizeAndKill,
        Self::DiskFull,
        Self::DiskFullAndKill,
        Self::Descriptors,
        Self::Clock,
        Self::PostgresKill,
    ];

    /// Whether the fault applies to this database engine.
    pub fn concerns(self, on_postgres: bool) -> bool {
        match self {
            Self::FileSize | Self::FileSizeAndKill | Self::DiskFull | Self::DiskFullAndKill => !on_postgres,
            Self::PostgresKill => on_postgres,
            _ => true,
        }
    }

    /// What the machine lacks to cause the fault, if anything.
    pub fn lacks(self, abilities: Abilities) -> Option<&'static str> {
        let (able, why) = match self {
            Self::FileSize | Self::FileSizeAndKill | Self::Descriptors => (abilities.limits, "needs Linux"),
            Self::DiskFull | Self::DiskFullAndKill => (abilities.own_disk, "needs Linux, and root to mount a tmpfs"),
            Self::Clock => (abilities.clock, "apt-get install libfaketime"),
            _ => (true, ""),
        };
        (!able).then_some(why)
    }

    /// The duration of the fault.
    pub fn lasts(self, rng: &mut fastrand::Rng) -> Duration {
        let most = match self {
            Self::Kill | Self::Terminate => 300,
            Self::DropAnswers | Self::DropFeed => 2500,
            _ => 1500,
        };
        Duration::from_millis(rng.u64(50..=most))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "server killed",
            Self::Terminate => "server terminated",
            Self::Pause => "server stopped and continued",
            Self::CutAnswers => "answers cut",
            Self::StallAnswers => "answers stalled",
            Self::DropAnswers => "answers dropped",
            Self::CutFeed => "feed cut",
            Self::StallFeed => "feed stalled",
            Self::DropFeed => "feed dropped",
            Self::FlipFeed => "feed with flipped bits",
            Self::FileSize => "file size limited",
            Self::FileSizeAndKill => "file size limited, server killed",
            Self::DiskFull => "disk full",
            Self::DiskFullAndKill => "disk full, server killed",
            Self::Descriptors => "no file descriptors",
            Self::Clock => "clock jumps",
            Self::PostgresKill => "PostgreSQL killed",
        })
    }
}
