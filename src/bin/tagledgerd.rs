//! The service: parse, run, exit code.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tagledger::ledger::note::Origin;
use tagledger::server::config::{Config, TlsSettings};
use tagledger::server::copies::backup::Backup;
use tagledger::server::copies::rebuild::Rebuild;
use tagledger::server::copies::restore::{Anew, Restore};
use tagledger::server::data_dir::DataDir;
use tagledger::server::fsck::Fsck;
use tagledger::server::gateway::{self, Settings};
use tagledger::server::keys::{self, Prepared};
use tagledger::server::over_grpc::LedgerSettings;
use tagledger::server::panics;
use tagledger::server::scan::{self, Span};
use tagledger::server::{Running, ServeError, serve};

/// tagledgerd serves an append-only ledger of container tags.
///
/// It records every tag-to-digest binding, and every attempted change, as a signed entry in a Merkle-tree log, and proves
/// what it answers. `tagledger` is the command that asks it and checks the answers.
#[derive(Parser)]
#[command(name = "tagledgerd", version, propagate_version = true, subcommand_required = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the ledger. Makes origin, keys and a first token on the first start.
    #[command(
        after_help = "Example:\n  tagledgerd serve --data-dir ./ledger --config ledger.toml\n\nLogs go to standard error; TAGLEDGER_LOG=debug shows more, --log-json makes them JSON."
    )]
    Serve {
        #[command(flatten)]
        place: Place,
        /// Address to listen on [default: 127.0.0.1:7420, or what the configuration says]
        #[arg(long, value_name = "ADDR", env = "TAGLEDGER_LISTEN")]
        listen: Option<SocketAddr>,
        /// Configuration file (TOML): reading, limits, TLS, webhooks, commitments when idle, clock. None is needed.
        #[arg(long, value_name = "FILE", env = "TAGLEDGER_CONFIG")]
        config: Option<PathBuf>,
        /// Serve with TLS: the server's certificate and those between it and its authority (PEM); needs --tls-key
        #[arg(long, value_name = "FILE", env = "TAGLEDGER_TLS_CERTIFICATE", requires = "tls_key")]
        tls_certificate: Option<PathBuf>,
        /// Its private key (PEM), readable by its owner alone
        #[arg(long, value_name = "FILE", env = "TAGLEDGER_TLS_KEY", requires = "tls_certificate")]
        tls_key: Option<PathBuf>,
        /// Take client certificates by these authorities (PEM)
        #[arg(long, value_name = "FILE", env = "TAGLEDGER_TLS_CLIENT_CA", requires = "tls_certificate")]
        tls_client_ca: Option<PathBuf>,
        /// Write logs as JSON, one object a line
        #[arg(long)]
        log_json: bool,
    },
    /// Stand in front of a registry: no tag changes without the ledger's word, and every attempt is recorded.
    ///
    /// Clients use the gateway's address instead of the registry's; nobody but the gateway may write to the registry. Before
    /// it lets a push or delete through, it records the intent in the ledger, which decides by its policy; afterwards, what
    /// became of it. A denied change is answered with 409 and the reason, which docker, podman, buildah and skopeo print.
    #[command(
        after_help = "Example, with a registry on port 5000 and a ledger on port 7420 of this machine:\n  tagledger principal add gateway --role writer,reader --repository 'registry.example/**' \\\n    --kind push,delete,delete-digest,observe --token-file ./ledger/token --token-out ./gateway.token\n  tagledgerd gateway --upstream http://127.0.0.1:5000 --registry registry.example --ledger 127.0.0.1:7420 \\\n    --token-file ./gateway.token --trust ./gateway-trust --listen 127.0.0.1:7430\n  skopeo copy --dest-tls-verify=false dir:./image docker://127.0.0.1:7430/team/app:v1\n  tagledger history registry.example/team/app:v1\n\nThe same in a file, for --config; more settings are in docs/OPERATIONS.md:\n  upstream = \"http://127.0.0.1:5000\"\n  registry = \"registry.example\"\n  when_ledger_unreachable = \"protect\"    # or \"refuse\", \"pass\"\n  [ledger]\n  token_file = \"gateway.token\"\n  trust = \"gateway-trust\""
    )]
    Gateway(GatewayFlags),
    /// Look through a registry, confirm what was claimed about it, and record what nobody announced.
    ///
    /// Goes through the repositories, lists the tags of each in the registry and in the ledger, and looks at every tag that is on
    /// either side. A claim that nobody had looked after is confirmed. Where the two differ, the tag is looked at again after a
    /// pause; if the registry then says the same, that is recorded: a new tag, a silent re-tag, a vanished tag, with the interval
    /// in which it came about. What did not change is not recorded again. At the end stands a report, ledger against registry.
    ///
    /// Exits 0 if the round was complete (whether there were differences or not), 1 if something could not be gone through or stayed
    /// open, 2 if it was called wrongly, 3 if the ledger's answers do not verify.
    #[command(
        after_help = "Examples, with a registry on port 5000 and a ledger on port 7420 of this machine:\n  tagledger principal add scanner --role scanner,reader --repository 'registry.example/**' \\\n    --token-file ./ledger/token --token-out ./scan.token\n  tagledgerd scan --registry-url http://127.0.0.1:5000 --registry registry.example --token-file ./scan.token \\\n    --trust ./scan-trust --state ./scan-state --once\n  tagledgerd scan ... --every 10m --repository 'team/**' --exclude '**/tmp-*'\n  tagledgerd scan ... --dry-run --json        # what would be recorded; writes nothing\n\nThe same in a file, for --config; more settings are in docs/OPERATIONS.md:\n  registry_url = \"http://127.0.0.1:5000\"\n  registry = \"registry.example\"\n  state = \"scan-state\"\n  every = \"10m\"\n  [ledger]\n  token_file = \"scan.token\"\n  trust = \"scan-trust\"\n\nIn --state is remembered when each tag was last seen, and as what. Without it, or if it is lost, the next round looks at\neverything anew and records nothing twice, but cannot say since when something is as it is."
    )]
    Scan(Box<ScanFlags>),
    /// Check a ledger that does not run: every row of its database, recomputed from the entries.
    ///
    /// Reads everything and changes nothing. Each entry is checked for itself (encoding, place, signature); from the entries all
    /// other rows are derived once more, into a folder on the side, and compared: the log's tree, histories, subjects and so the
    /// subject map of every commitment, indexes, the newest checkpoint. The high-water mark must be of the same log, too. Each
    /// damage is named with its place, what is there, and what should be.
    ///
    /// Exits 0 if everything is as it must be, 3 if anything is not, 1 if it could not be checked.
    #[command(
        after_help = "Examples:\n  tagledgerd fsck --data-dir ./ledger\n  tagledgerd fsck --data-dir ./ledger --scratch /another/disk --json\n\nIt takes as much room as the database for a while. What to do about damages: docs/OPERATIONS.md, \"A damaged database\"."
    )]
    Fsck {
        #[command(flatten)]
        ledger: LedgerDirectory,
        /// Folder with room for what is made on the side [default: the data directory]
        #[arg(long, value_name = "DIR")]
        scratch: Option<PathBuf>,
        /// Print the report as JSON
        #[arg(long)]
        json: bool,
    },
    /// Copy a ledger, running or not: its entries, the newest checkpoint, its keys.
    ///
    /// The folder grows with each backup by what is new, and is what a mirror of the log serves: a file "checkpoint", and below
    /// "tile/entries" the entries in bundles of 256. Everything else follows from these, and is derived anew when it is restored. The
    /// copy ends at the high-water mark, which is at most a second behind. It is checked from end to end before the command ends.
    #[command(
        after_help = "Examples:\n  tagledgerd backup --data-dir ./ledger --to /backup/ledger\n  tagledgerd backup --data-dir ./ledger --to /mirror --without-key --quick\n\nThe folder holds the private key (mode 0600) unless it is left out. To check it later: tagledgerd restore into an empty\ndirectory, and tagledgerd fsck. How to put it back: tagledgerd restore --help."
    )]
    Backup {
        #[command(flatten)]
        ledger: LedgerDirectory,
        /// Folder of the backup; made, or gone on with
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
        /// Leave the private key and the token out
        #[arg(long)]
        without_key: bool,
        /// Only compare the root of the copied entries with the checkpoint, instead of deriving everything from them
        #[arg(long)]
        quick: bool,
    },
    /// Bring a ledger back whose database is too old, gone, or of another history.
    ///
    /// A ledger may only go on from the newest checkpoint it ever signed: to sign less would be a second history, and clients would
    /// find it out. So the missing entries are fetched from copies, up to the newest checkpoint that is known (the high-water
    /// mark, and those of the copies), and must have exactly its root. Otherwise nothing is changed. If the service was killed, more may
    /// have been signed than anything here knows of: then somebody has to say what the newest checkpoint is, with --checkpoint.
    ///
    /// Where the entries are nowhere to be had, what is left can go on under a new origin, as another log with another key:
    /// --new-origin. Receipts and evidence of the old one are not good for it, and its users have to be told.
    #[command(
        after_help = "Examples:\n  tagledgerd restore --data-dir ./ledger --from /backup/ledger --from https://mirror.example\n  tagledgerd restore --data-dir ./ledger --from ./evidence-that-clients-saved\n  tagledgerd restore --data-dir ./new --from /backup/ledger --checkpoint ./newest-checkpoint\n  tagledgerd restore --data-dir ./ledger --new-origin ledger.example/tags-2 --into ./ledger-2"
    )]
    Restore {
        #[command(flatten)]
        ledger: LedgerDirectory,
        /// A copy: a backup's folder, a folder of evidence files, or the address of a mirror. Several are put together.
        #[arg(long, value_name = "COPY")]
        from: Vec<String>,
        /// The newest checkpoint that anybody knows, where the service was not stopped in order, or the high-water mark is lost
        #[arg(long, value_name = "FILE")]
        checkpoint: Option<PathBuf>,
        /// Go on with what is left as another log, under this name and a new key
        #[arg(long, value_name = "NAME", requires = "into")]
        new_origin: Option<Origin>,
        /// Data directory of that log, which is made
        #[arg(long, value_name = "DIR", requires = "new_origin")]
        into: Option<PathBuf>,
    },
    /// Make a new database of the entries of a damaged one.
    ///
    /// For a ledger whose entries are whole and whose other rows are not: everything is derived from the entries, keys and
    /// high-water mark are copied, and the result is checked as fsck does. What could not be derived is said. Exits 0 if the new ledger
    /// is whole, 3 if it is not.
    #[command(
        after_help = "Example:\n  tagledgerd rebuild --data-dir ./ledger --into ./ledger-rebuilt\n  mv ./ledger ./ledger-damaged && mv ./ledger-rebuilt ./ledger"
    )]
    Rebuild {
        #[command(flatten)]
        ledger: LedgerDirectory,
        /// The new data directory
        #[arg(long, value_name = "DIR")]
        into: PathBuf,
    },
    /// Change the key that the ledger signs with.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Make a data directory with origin, keys and first token, and print the verifier key.
    Init {
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Subcommand)]
enum KeyCommand {
    /// Make the key that is to follow the one in force, and print what announces it.
    ///
    /// The private key joins the others in ledger.key. Nothing changes until an admin records the change with `tagledger key announce`;
    /// the service, which need not be restarted, signs with the new key from then on. Run again before that, it prints the same.
    #[command(
        after_help = "Example:\n  tagledgerd key prepare --data-dir ./ledger\n  tagledger key announce CmsK...\n\nBack up ledger.key in between: once the change is recorded, the ledger can't go on without the new key. The old one\nsigns checkpoints too for [keys] overlap_days, and is then removed. See docs/OPERATIONS.md, \"Another key\"."
    )]
    Prepare {
        /// Data directory of the ledger, which may run
        #[arg(long, value_name = "DIR", env = "TAGLEDGER_DATA_DIR", default_value = "tagledger-data")]
        data_dir: PathBuf,
    },
}

#[derive(Args)]
struct GatewayFlags {
    /// Configuration file (TOML); what is given as a flag wins over it
    #[arg(long, value_name = "FILE", env = "TAGLEDGER_GATEWAY_CONFIG")]
    config: Option<PathBuf>,
    /// Base URL of the registry behind the gateway
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// What the registry is called in entries: the host that clients name, "registry.example"
    #[arg(long, value_name = "NAME")]
    registry: Option<String>,
    /// Address to listen on [default: 127.0.0.1:7430]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    #[command(flatten)]
    ledger: LedgerSettings,
    /// Serve clients with TLS: the gateway's certificate and those between it and its authority (PEM); needs --tls-key
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_certificate: Option<PathBuf>,
    /// Its private key (PEM), readable by its owner alone
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
    /// File where what is under way is kept over a crash [default: tagledger-gateway.journal]
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// Write logs as JSON, one object a line
    #[arg(long)]
    log_json: bool,
}

impl GatewayFlags {
    fn settings(self) -> Result<Settings, ServeError> {
        let mut settings = self.config.map_or_else(|| Ok(Settings::default()), |path| Settings::read(&path))?;
        // A path in a file starts from the file's folder, one on the command line from here.
        let here = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        settings.upstream = self.upstream.or(settings.upstream);
        settings.registry = self.registry.or(settings.registry);
        settings.listen = self.listen.unwrap_or(settings.listen);
        settings.ledger = self.ledger.over(settings.ledger);
        settings.journal = self.journal.map(here).unwrap_or(settings.journal);
        if let (Some(certificate), Some(key)) = (self.tls_certificate, self.tls_key) {
            settings.tls = Some(TlsSettings { certificate: here(certificate), key: here(key), client_ca: None });
        }
        Ok(settings)
    }
}

#[derive(Args)]
struct ScanFlags {
    /// Configuration file (TOML); what is given as a flag wins over it
    #[arg(long, value_name = "FILE", env = "TAGLEDGER_SCAN_CONFIG")]
    config: Option<PathBuf>,
    /// Base URL of the registry
    #[arg(long, value_name = "URL")]
    registry_url: Option<String>,
    /// What the registry is called in entries: the host that clients name, "registry.example"
    #[arg(long, value_name = "NAME")]
    registry: Option<String>,
    /// User that may pull, and list the catalogue; with registry_password_file
    #[arg(long, value_name = "USER")]
    registry_user: Option<String>,
    /// File that holds the user's password, or token
    #[arg(long, value_name = "FILE")]
    registry_password_file: Option<PathBuf>,
    #[command(flatten)]
    ledger: LedgerSettings,
    /// Repositories to scan: names, or patterns like 'team/**' [default: all that the registry lists]
    #[arg(long, value_name = "PATTERN", num_args = 1..)]
    repository: Vec<String>,
    /// Repositories to leave out
    #[arg(long, value_name = "PATTERN", num_args = 1..)]
    exclude: Vec<String>,
    /// One round, then end (the default)
    #[arg(long, conflicts_with = "every")]
    once: bool,
    /// A round every so often, until it is stopped: 10m, 1h
    #[arg(long, value_name = "TIME")]
    every: Option<Span>,
    /// Requests to the registry in a second [default: 20]
    #[arg(long, value_name = "N")]
    rate: Option<f64>,
    /// Tags looked at side by side [default: 8]
    #[arg(long, value_name = "N")]
    parallel: Option<usize>,
    /// Between two looks that have to agree before a difference is recorded [default: 10s]
    #[arg(long, value_name = "TIME")]
    pause: Option<Span>,
    /// Folder that is remembered in, of this registry alone
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Report, and record nothing
    #[arg(long)]
    dry_run: bool,
    /// Print reports as JSON, one a line
    #[arg(long)]
    json: bool,
    /// Write logs as JSON, one object a line
    #[arg(long)]
    log_json: bool,
}

impl ScanFlags {
    fn settings(self) -> Result<scan::Settings, ServeError> {
        let mut settings = match self.config {
            Some(path) => scan::Settings::read(&path)?,
            None => scan::Settings::default(),
        };
        // A path in a file starts from the file's folder, one on the command line from here.
        let here = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        settings.registry_url = self.registry_url.or(settings.registry_url);
        settings.registry = self.registry.or(settings.registry);
        settings.registry_user = self.registry_user.or(settings.registry_user);
        settings.registry_password_file = self.registry_password_file.map(here).or(settings.registry_password_file);
        settings.ledger = self.ledger.over(settings.ledger);
        if !self.repository.is_empty() {
            settings.repository = self.repository;
        }
        if !self.exclude.is_empty() {
            settings.exclude = self.exclude;
        }
        settings.every = if self.once { None } else { self.every.or(settings.every) };
        settings.rate = self.rate.unwrap_or(settings.rate);
        settings.parallel = self.parallel.unwrap_or(settings.parallel);
        settings.pause = self.pause.unwrap_or(settings.pause);
        settings.state = self.state.map(here).or(settings.state);
        settings.dry_run |= self.dry_run;
        settings.json |= self.json;
        Ok(settings)
    }
}

#[derive(Args)]
struct Place {
    /// Directory of keys and database; made if it is not there
    #[arg(long, value_name = "DIR", env = "TAGLEDGER_DATA_DIR", default_value = "tagledger-data")]
    data_dir: PathBuf,
    /// Name of a new ledger, for ever, like "ledger.example/tags" [default: tagledger.local/ and a random part]
    #[arg(long, value_name = "NAME")]
    origin: Option<Origin>,
}

impl Place {
    fn open(&self) -> Result<DataDir, ServeError> {
        Ok(DataDir::open(&self.data_dir, self.origin.as_ref())?)
    }
}

/// Where a ledger is that is looked after.
#[derive(Args)]
struct LedgerDirectory {
    /// Directory of keys and database
    #[arg(long, value_name = "DIR", env = "TAGLEDGER_DATA_DIR", default_value = "tagledger-data")]
    data_dir: PathBuf,
    /// Configuration file of the service, if it says where the high-water mark is
    #[arg(long, value_name = "FILE", env = "TAGLEDGER_CONFIG")]
    config: Option<PathBuf>,
}

impl LedgerDirectory {
    /// It, and where its high-water mark is.
    fn places(self) -> Result<(PathBuf, PathBuf), ServeError> {
        let config = self.config.map_or_else(|| Ok(Config::default()), |path| Config::read(&path))?;
        let high_water = config.high_water(&self.data_dir.join("high-water"));
        Ok((self.data_dir, high_water))
    }
}

/// Everything is as it must be, or something is not.
fn verified(is_whole: bool) -> ExitCode {
    if is_whole { ExitCode::SUCCESS } else { ExitCode::from(3) }
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tagledgerd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode, ServeError> {
    match command {
        Command::Init { place } => {
            let data_dir = place.open()?;
            let state = if data_dir.is_new() { "made" } else { "was there already" };
            println!("{} {state}", data_dir.path().display());
            println!("{}", data_dir.take_key().vkey());
            Ok(ExitCode::SUCCESS)
        }
        Command::Key(KeyCommand::Prepare { data_dir }) => {
            let Prepared { vkey, change, before } = keys::prepare(&data_dir)?;
            if let Some(before) = before {
                eprintln!("{before} still signs checkpoints, and does not once this is announced");
            }
            eprintln!("prepared {vkey}; back up {}/ledger.key, and then announce it, as an admin:", data_dir.display());
            println!("tagledger key announce {change}");
            Ok(ExitCode::SUCCESS)
        }
        Command::Fsck { ledger, scratch, json } => {
            let (data_dir, high_water) = ledger.places()?;
            Ok(verified(Fsck { data_dir, high_water, scratch, json }.run()?))
        }
        Command::Backup { ledger, to, without_key, quick } => {
            let (data_dir, high_water) = ledger.places()?;
            Backup { data_dir, high_water, to, without_key, quick }.run()?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Restore { ledger, from, checkpoint, new_origin, into } => {
            let (data_dir, high_water) = ledger.places()?;
            let restore = Restore { data_dir, high_water, from, checkpoint };
            match new_origin.zip(into) {
                Some((origin, into)) => restore.run_anew(&Anew { origin, into })?,
                None => restore.run()?,
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Rebuild { ledger, into } => {
            let (data_dir, high_water) = ledger.places()?;
            Ok(verified(Rebuild { data_dir, high_water, into }.run()?))
        }
        Command::Gateway(flags) => {
            log_to_stderr(flags.log_json);
            let settings = flags.settings()?;
            let runtime =
                tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(ServeError::Runtime)?;
            let scheme = if settings.tls.is_some() { "https" } else { "http" };
            let started =
                |address| println!("tagledgerd {} gateway on {scheme}://{address}", env!("CARGO_PKG_VERSION"));
            runtime.block_on(async { gateway::serve(settings, started, terminated()).await })?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Scan(flags) => {
            log_to_stderr(flags.log_json);
            let settings = flags.settings()?;
            let runtime =
                tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(ServeError::Runtime)?;
            Ok(match runtime.block_on(async { scan::run(settings, terminated()).await })? {
                scan::Ending::Complete => ExitCode::SUCCESS,
                scan::Ending::Incomplete => ExitCode::FAILURE,
                scan::Ending::Untrusted => ExitCode::from(3),
            })
        }
        Command::Serve { place, listen, config, tls_certificate, tls_key, tls_client_ca, log_json } => {
            log_to_stderr(log_json);
            let mut config = config.map_or_else(|| Ok(Config::default()), |path| Config::read(&path))?;
            config.listen = listen.unwrap_or(config.listen);
            if let (Some(certificate), Some(key)) = (tls_certificate, tls_key) {
                let here = std::env::current_dir().unwrap_or_default();
                let client_ca = tls_client_ca.map(|path| here.join(path));
                config.tls = Some(TlsSettings { certificate: here.join(certificate), key: here.join(key), client_ca });
            }
            let data_dir = place.open()?;
            let runtime =
                tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(ServeError::Runtime)?;
            let served = runtime.block_on(async { serve(config, data_dir, greet, terminated()).await });
            // Whoever still waits for a disk that does not answer is not waited for.
            runtime.shutdown_background();
            served?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn log_to_stderr(json: bool) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("TAGLEDGER_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(is_terminal);
    if json {
        builder.json().init()
    } else {
        builder.with_target(false).init()
    }
    panics::watch();
}

/// Completes when the service is asked to stop, from the moment of the call on: whoever was greeted may stop it in order.
fn terminated() -> impl Future<Output = ()> + Send + 'static {
    use tokio::signal::unix::{SignalKind, signal};
    let [mut interrupt, mut terminate] = [SignalKind::interrupt(), SignalKind::terminate()]
        .map(|kind| signal(kind).expect("a signal handler can be set"));
    async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tracing::info!("stopping: no new connections, what was begun is finished");
    }
}

/// Says where it listens, whose it is, and what to try next.
fn greet(running: &Running) {
    let cli = std::env::current_exe().ok().and_then(|path| {
        let sibling = path.with_file_name("tagledger");
        sibling.exists().then(|| sibling.display().to_string())
    });
    let cli = cli.as_deref().unwrap_or("tagledger");
    let token = running.data_dir.join("token");
    let scheme = if running.has_tls { "https" } else { "http" };
    let server = match running.address.port() {
        7420 if running.address.ip().is_loopback() && !running.has_tls => String::new(),
        _ => format!(" --server {scheme}://{}", running.address),
    };
    let digest = "0123456789abcdef".repeat(4);
    println!("tagledgerd {} serves on {scheme}://{}", env!("CARGO_PKG_VERSION"), running.address);
    println!("  data directory  {}{}", running.data_dir.display(), if running.is_new { "  (new)" } else { "" });
    println!("  verifier key    {}", running.vkey);
    println!("\nNext, in another terminal:");
    println!(
        "  {cli}{server} record push registry.example/team/app:v1 --digest sha256:{digest} --token-file {}",
        token.display()
    );
    println!("  {cli}{server} at registry.example/team/app:v1");
    println!("  {cli}{server} history registry.example/team/app:v1");
}
