//! The service: parse, run, exit code.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tagledger::ledger::note::Origin;
use tagledger::server::config::{Config, TlsSettings};
use tagledger::server::data_dir::DataDir;
use tagledger::server::gateway::{self, Settings};
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
        after_help = "Example, with a registry on port 5000 and a ledger on port 7420 of this machine:\n  tagledger principal add gateway --role writer,reader --repository 'registry.example/**' \\\n    --kind push,delete,delete-digest,observe --token-file ./ledger/token --token-out ./gateway.token\n  tagledgerd gateway --upstream http://127.0.0.1:5000 --registry registry.example --ledger 127.0.0.1:7420 \\\n    --token-file ./gateway.token --trust ./gateway-trust --listen 127.0.0.1:7430\n  skopeo copy --dest-tls-verify=false dir:./image docker://127.0.0.1:7430/team/app:v1\n  tagledger history registry.example/team/app:v1\n\nThe same in a file, for --config; more settings are in docs/OPERATIONS.md:\n  upstream = \"http://127.0.0.1:5000\"\n  registry = \"registry.example\"\n  token_file = \"gateway.token\"\n  trust = \"gateway-trust\"\n  when_ledger_unreachable = \"protect\"    # or \"refuse\", \"pass\""
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
        after_help = "Examples, with a registry on port 5000 and a ledger on port 7420 of this machine:\n  tagledger principal add scanner --role scanner,reader --repository 'registry.example/**' \\\n    --token-file ./ledger/token --token-out ./scan.token\n  tagledgerd scan --registry-url http://127.0.0.1:5000 --registry registry.example --token-file ./scan.token \\\n    --trust ./scan-trust --state ./scan-state --once\n  tagledgerd scan ... --every 10m --repository 'team/**' --exclude '**/tmp-*'\n  tagledgerd scan ... --dry-run --json        # what would be recorded; writes nothing\n\nThe same in a file, for --config; more settings are in docs/OPERATIONS.md:\n  registry_url = \"http://127.0.0.1:5000\"\n  registry = \"registry.example\"\n  token_file = \"scan.token\"\n  trust = \"scan-trust\"\n  state = \"scan-state\"\n  every = \"10m\"\n\nIn --state is remembered when each tag was last seen, and as what. Without it, or if it is lost, the next round looks at\neverything anew and records nothing twice, but cannot say since when something is as it is."
    )]
    Scan(Box<ScanFlags>),
    /// Make a data directory with origin, keys and first token, and print the verifier key.
    Init {
        #[command(flatten)]
        place: Place,
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
    /// Where the ledger is served [default: http://127.0.0.1:7420]
    #[arg(long, value_name = "URL")]
    ledger: Option<String>,
    /// Address to listen on [default: 127.0.0.1:7430]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// File that holds the token to write to the ledger with
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Certificates to trust an https:// ledger by (PEM), instead of the system's
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Client certificate to show an https:// ledger (PEM); needs --key
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// Its private key (PEM), readable by its owner alone
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Sign statements with this private key (a file in signed-note form), readable by its owner alone
    #[arg(long, value_name = "FILE")]
    sign_key: Option<PathBuf>,
    /// Folder where the ledger's key and newest checkpoint are pinned
    #[arg(long, value_name = "DIR")]
    trust: Option<PathBuf>,
    /// The ledger's verifier key [default: pinned at the first contact]
    #[arg(long, value_name = "VKEY")]
    vkey: Option<String>,
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
        settings.ledger = self.ledger.unwrap_or(settings.ledger);
        settings.listen = self.listen.unwrap_or(settings.listen);
        settings.token_file = self.token_file.map(here).or(settings.token_file);
        settings.ca_file = self.ca_file.map(here).or(settings.ca_file);
        settings.certificate = self.cert.map(here).or(settings.certificate);
        settings.key = self.key.map(here).or(settings.key);
        settings.sign_key = self.sign_key.map(here).or(settings.sign_key);
        settings.trust = self.trust.map(here).or(settings.trust);
        settings.vkey = self.vkey.or(settings.vkey);
        settings.journal = self.journal.map(here).unwrap_or(settings.journal);
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
    /// Where the ledger is served [default: http://127.0.0.1:7420]
    #[arg(long, value_name = "URL")]
    ledger: Option<String>,
    /// File that holds the token to write to the ledger with
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Certificates to trust an https:// ledger by (PEM), instead of the system's
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Client certificate to show an https:// ledger (PEM); needs --key
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// Its private key (PEM), readable by its owner alone
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Sign statements with this private key (a file in signed-note form), readable by its owner alone
    #[arg(long, value_name = "FILE")]
    sign_key: Option<PathBuf>,
    /// Folder where the ledger's key and newest checkpoint are pinned
    #[arg(long, value_name = "DIR")]
    trust: Option<PathBuf>,
    /// The ledger's verifier key [default: pinned at the first contact]
    #[arg(long, value_name = "VKEY")]
    vkey: Option<String>,
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
        settings.ledger = self.ledger.unwrap_or(settings.ledger);
        settings.token_file = self.token_file.map(here).or(settings.token_file);
        settings.ca_file = self.ca_file.map(here).or(settings.ca_file);
        settings.certificate = self.cert.map(here).or(settings.certificate);
        settings.key = self.key.map(here).or(settings.key);
        settings.sign_key = self.sign_key.map(here).or(settings.sign_key);
        settings.trust = self.trust.map(here).or(settings.trust);
        settings.vkey = self.vkey.or(settings.vkey);
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
        Command::Gateway(flags) => {
            log_to_stderr(flags.log_json);
            let settings = flags.settings()?;
            let runtime =
                tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(ServeError::Runtime)?;
            let started = |address| println!("tagledgerd {} gateway on http://{address}", env!("CARGO_PKG_VERSION"));
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
            runtime.block_on(async { serve(config, data_dir, greet, terminated()).await })?;
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
