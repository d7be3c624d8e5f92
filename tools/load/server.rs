//! A real server in a process of its own, and what the system knows of it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tonic::transport::Channel;

use crate::Failure;

/// No caller is held back: what is measured is the ledger.
const SETTINGS: &str = "[limits]\nmemory_mib = 0\nconcurrent = 0\nconnections_per_address = 0\n\n[limits.principal]\nper_second = 0\nconcurrent = 0\n\n[limits.address]\nper_second = 0\nconcurrent = 0\n";

/// A running `tagledgerd serve`.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
    pub(crate) data_dir: PathBuf,
    /// From its start until it answered.
    pub(crate) start: Duration,
}

impl Server {
    /// Starts a server on a data directory, and returns once it serves.
    pub(crate) fn start(programs: &Path, data_dir: &Path, sync_delay: Option<Duration>) -> Result<Self, Failure> {
        let config = data_dir.with_extension("toml");
        std::fs::write(&config, SETTINGS)?;
        let log = std::fs::File::create(data_dir.with_extension("log"))?;
        let program = programs.join("tagledgerd");
        let mut command = Command::new(&program);
        if let Some(delay) = sync_delay {
            command.env("LD_PRELOAD", slow_sync(data_dir.with_extension("so"), delay)?);
        }
        command.args(["serve", "--listen", "127.0.0.1:0", "--config"]).arg(&config).arg("--data-dir").arg(data_dir);
        let begun = Instant::now();
        let child =
            command.env("TAGLEDGER_LOG", "error").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn();
        let mut child = child.map_err(|error| format!("cannot run {command:?}: {error}"))?;
        let mut greeting = String::new();
        BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut greeting)?;
        let start = begun.elapsed();
        let Some((_, address)) = greeting.split_once("http://") else {
            child.wait()?;
            return Err(format!("the server did not come up; see {}", data_dir.with_extension("log").display()).into());
        };
        let address = address.split_whitespace().next().unwrap_or_default().to_owned();
        Ok(Self { child, address, data_dir: data_dir.to_owned(), start })
    }

    pub(crate) fn token(&self) -> Result<String, Failure> {
        Ok(std::fs::read_to_string(self.data_dir.join("token"))?.trim().to_owned())
    }

    /// So many connections, each its own.
    pub(crate) async fn channels(&self, count: usize) -> Result<Vec<Channel>, Failure> {
        let mut channels = Vec::with_capacity(count);
        for _ in 0..count {
            let endpoint =
                Channel::from_shared(format!("http://{}", self.address))?.http2_adaptive_window(true).tcp_nodelay(true);
            channels.push(endpoint.connect().await?);
        }
        Ok(channels)
    }

    /// Processor time used so far.
    pub(crate) fn cpu(&self) -> Result<Duration, Failure> {
        cpu_of(self.child.id())
    }

    /// A figure of `/proc/PID/status` in KiB.
    pub(crate) fn memory_kib(&self, name: &str) -> Result<u64, Failure> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let value = line.and_then(|line| line.split_whitespace().next()).ok_or("no such figure")?;
        Ok(value.parse()?)
    }

    /// Ends it as an operator would.
    pub(crate) fn stop(mut self) -> Result<(), Failure> {
        signal(self.child.id(), "-TERM")?;
        self.child.wait()?;
        Ok(())
    }

    /// Ends it as a failing machine would.
    pub(crate) fn kill(mut self) -> Result<(), Failure> {
        signal(self.child.id(), "-KILL")?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = signal(self.child.id(), "-KILL");
            let _ = self.child.wait();
        }
    }
}

fn signal(pid: u32, signal: &str) -> Result<(), Failure> {
    Command::new("kill").args([signal, &pid.to_string()]).status()?;
    Ok(())
}

/// Compiles the model of a slow disk.
fn slow_sync(library: PathBuf, delay: Duration) -> Result<PathBuf, Failure> {
    let mut compiler = Command::new("cc");
    compiler.args(["-O2", "-shared", "-fPIC", &format!("-DSYNC_DELAY_US={}", delay.as_micros()), "-x", "c", "-o"]);
    let mut running = compiler.arg(&library).arg("-").stdin(Stdio::piped()).spawn()?;
    running.stdin.take().expect("piped").write_all(include_bytes!("slow_sync.c"))?;
    match running.wait()?.success() {
        true => Ok(library),
        false => Err("cc does not compile tools/load/slow_sync.c".into()),
    }
}

/// Processor time of a process, of all its threads, those that ended too.
pub(crate) fn cpu_of(pid: u32) -> Result<Duration, Failure> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name of the program is in parentheses, and may have any others in it.
    let (_, fields) = stat.rsplit_once(") ").ok_or("an odd /proc/PID/stat")?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut ticks = || -> Result<u64, Failure> { Ok(fields.next().ok_or("an odd /proc/PID/stat")?.parse()?) };
    // The unit is a hundredth of a second on every Linux (USER_HZ).
    Ok(Duration::from_millis((ticks()? + ticks()?) * 10))
}

/// Bytes of the files below a folder.
pub(crate) fn bytes_below(folder: &Path) -> Result<u64, Failure> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() { bytes_below(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}

/// A copy that may be written to. Files that the database never changes are shared.
pub(crate) fn copy_of(from: &Path, to: &Path) -> Result<(), Failure> {
    std::fs::create_dir(to)?;
    std::fs::set_permissions(to, std::fs::metadata(from)?.permissions())?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let copy = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_of(&entry.path(), &copy)?;
        } else if entry.path().extension().is_some_and(|extension| extension == "sst") {
            std::fs::hard_link(entry.path(), &copy)?;
        } else {
            std::fs::copy(entry.path(), &copy)?;
        }
    }
    Ok(())
}
