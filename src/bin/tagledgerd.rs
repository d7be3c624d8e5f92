//! The service: parse, run, exit code.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tagledger::ledger::note::Origin;
use tagledger::server::config::{Config, TlsSettings};
use tagledger::server::data_dir::DataDir;
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
        /// Configuration file (TOML): immutable tags, reading, limits, TLS, webhooks, commitments when idle, clock. None is needed.
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
    /// Make a data directory with origin, keys and first token, and print the verifier key.
    Init {
        #[command(flatten)]
        place: Place,
    },
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
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tagledgerd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), ServeError> {
    match command {
        Command::Init { place } => {
            let data_dir = place.open()?;
            let state = if data_dir.is_new() { "made" } else { "was there already" };
            println!("{} {state}", data_dir.path().display());
            println!("{}", data_dir.take_key().vkey());
            Ok(())
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
            runtime.block_on(serve(config, data_dir, greet, terminated()))
        }
    }
}

fn log_to_stderr(json: bool) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("TAGLEDGER_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(is_terminal);
    if json { builder.json().init() } else { builder.with_target(false).init() }
}

/// Completes when the service is asked to stop.
async fn terminated() {
    let mut terminate =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).expect("a signal handler can be set");
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    tracing::info!("stopping: no new connections, what was begun is finished");
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
