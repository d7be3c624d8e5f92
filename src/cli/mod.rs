//! The command line: what people type, and what they read.
//!
//! One file for each family of commands; each parses its arguments, asks through [`crate::client`], and shows the answer with
//! its verdict (`show`, `json`, `table`). Nothing is printed before it is verified. Exit codes: 0 answered and
//! verified, 1 operational failure, 2 usage, 3 verification failed, 4 absent.

mod audit;
mod check;
mod diff;
mod digest;
mod doc;
mod json;
mod key;
mod log;
mod name;
mod policy;
mod principal;
mod record;
mod run;
mod show;
mod table;
mod tag;
mod watch;
mod when;

use std::borrow::Cow;
use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use self::table::{terminal_width, wrap};
use crate::client::{
    ClientError, Credentials, Identity, Pin, RemoteLedger, Server, is_unseen, saved, trust::TrustFolder, visible,
};
use crate::ledger::answer::{Claimed, Question};
use crate::ledger::note::Vkey;
use zeroize::Zeroizing;

const ABOUT: &str =
    "tagledger asks an append-only ledger of container tags, and checks every answer before it prints it.";

const LONG_ABOUT: &str = "\
tagledger asks an append-only ledger of container tags, and checks every answer before it prints it.

The ledger records every tag-to-digest binding, and every attempted change, as a signed entry in a Merkle-tree log. With \
each answer comes evidence: the entries it rests on, and proofs that they are in the log and that nothing is left out, also \
where the answer is \"nothing\" or \"never\". tagledger derives the answer from that evidence alone, under the ledger's key, \
which it pins on first use as ssh does; it remembers the newest checkpoint, and demands that the log it sees next time \
continues it. After each answer it says what was checked.";

const EXAMPLES: &str = "\
Examples:
  tagledger at registry.example/team/app:v1 --time \"3 days ago\"
  tagledger history registry.example/team/app:v1
  tagledger ran --env prod --time 2026-11-21T10:00:00Z --save incident.json
  tagledger verify incident.json

Times: RFC 3339 (2026-11-21T10:00:00Z, +01:00, [Europe/Paris]); without a zone, your local one (2026-11-21 10:00, \
2026-11-21, 14:00, \"14:00 yesterday\", today, now); \"3 days ago\", \"1h 30m ago\"; or a Unix time with its unit \
(1795255200s, 1795255200000ms, 1795255200000000us). A state \"at T\" includes what was recorded in the microsecond T.

Exit codes: 0 answered and verified (or recorded); 1 operational failure, or a request denied; 2 usage; 3 verification \
failed; 4 proven absent: nothing was bound, ran or was recorded.

An environment variable that is empty counts as not set.";

#[derive(Debug, Parser)]
#[command(
    name = "tagledger",
    version,
    about = ABOUT,
    long_about = LONG_ABOUT,
    after_help = EXAMPLES,
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 110
)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

/// Below the options of each command.
const GLOBAL: &str = "Global options";

/// Which ledger, and whom to trust.
#[derive(Debug, Args)]
struct Globals {
    /// Address of the ledger, as URL or host:port
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "URL", env = "TAGLEDGER_SERVER")]
    #[arg(default_value = "http://127.0.0.1:7420")]
    server: String,
    /// Folder of pinned keys and remembered checkpoints [default: $XDG_STATE_HOME/tagledger or ~/.local/state/tagledger]
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "DIR", env = "TAGLEDGER_TRUST")]
    trust: Option<PathBuf>,
    /// Trust exactly this verifier key, whatever is pinned
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "VKEY", env = "TAGLEDGER_VKEY")]
    vkey: Option<Vkey>,
    /// File with the token to show [env: TAGLEDGER_TOKEN_FILE, or TAGLEDGER_TOKEN for the token itself]
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Hidden: on a command line others could read it
    #[arg(long, global = true, value_name = "TOKEN", hide = true, conflicts_with = "token_file")]
    token: Option<String>,
    /// Certificates to trust an https:// server by (PEM), instead of the system's
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "FILE", env = "TAGLEDGER_CA_FILE")]
    ca_file: Option<PathBuf>,
    /// Client certificate to show an https:// server (PEM); needs --key
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "FILE", env = "TAGLEDGER_CERT")]
    cert: Option<PathBuf>,
    /// Its private key (PEM), readable by you alone
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "FILE", env = "TAGLEDGER_KEY")]
    key: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Record a push, a deletion, a deployment or an observation
    #[command(subcommand)]
    Record(Box<record::Record>),
    /// Show what a tag points to, or pointed to at a time
    At(tag::At),
    /// Show everything that was asserted about a tag, denied attempts included
    History(tag::History),
    /// List the tags of a repository, now or at a time
    Tags(tag::Tags),
    /// List the repositories that were ever heard of, now or at a time
    Repositories(tag::Repositories),
    /// List every entry that names a digest
    Where(digest::Where),
    /// List what runs, or ran at a time
    Ran(run::Ran),
    /// Show what changed between two times, in a repository or an environment
    Diff(diff::Diff),
    /// Show one entry of the log
    Entry(log::ShowEntry),
    /// Show and change who may state what
    #[command(subcommand)]
    Principal(principal::Command),
    /// Show the ledger's keys, and announce another one
    #[command(subcommand)]
    Key(key::Command),
    /// Prove that an entry is in the log
    Prove(log::Prove),
    /// Check a saved answer, without any server
    Verify(check::Verify),
    /// Check the whole log: every signature, every decision, every commitment
    Audit(audit::Audit),
    /// Show, try, compare and set the rules on which tags may change
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Show the newest checkpoint, once it continues the one remembered
    Checkpoint(log::ShowCheckpoint),
    /// Follow the log as it grows
    Watch(watch::Watch),
    /// Print the completions of a shell
    Completions(doc::Completions),
    /// Print the manual page, or write all of them into a folder
    Man(doc::Man),
}

/// How to show an answer.
#[derive(Debug, Args)]
struct Output {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How to show an answer, and where to keep it.
#[derive(Debug, Args)]
struct Answering {
    #[command(flatten)]
    output: Output,
    /// Keep the answer with its evidence in a file, for `tagledger verify`
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
}

/// Why there is no answer. The message says what to do next.
#[derive(Debug)]
enum Failure {
    /// Exit code 1.
    Operational(String),
    /// Exit code 2.
    Usage(String),
    /// Exit code 3.
    Verification(String),
}

/// How a command ended that did what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// Exit code 0.
    Answered,
    /// Exit code 1: the ledger recorded the request, and denied it.
    Denied,
    /// Exit code 4.
    Absent,
}

type Outcome = Result<Ending, Failure>;

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let message = error.to_string();
        match error {
            ClientError::Address { .. } => Self::Usage(message),
            error if error.is_verification() => Self::Verification(message),
            _ => Self::Operational(message),
        }
    }
}

/// Parses the command line, runs it, and returns the exit code.
pub fn main() -> ExitCode {
    let matches = without_empty_variables(Cli::command()).get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let outcome = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(run_command(cli)),
        Err(error) => Err(Failure::Operational(format!("cannot start the runtime: {error}"))),
    };
    match outcome {
        Ok(Ending::Answered) => ExitCode::SUCCESS,
        Ok(Ending::Denied) => ExitCode::from(1),
        Ok(Ending::Absent) => ExitCode::from(4),
        Err(failure) => {
            let (code, message) = match failure {
                Failure::Operational(message) => (1, message),
                Failure::Usage(message) => (2, message),
                Failure::Verification(message) => (3, format!("VERIFICATION FAILED: {message}")),
            };
            complain(&message);
            ExitCode::from(code)
        }
    }
}

/// A variable that is empty counts as not set.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let forget_empty = |arg: clap::Arg| match arg.get_env() {
        Some(name) if std::env::var_os(name).is_some_and(|value| value.is_empty()) => arg.env(None::<&'static str>),
        _ => arg,
    };
    command.mut_args(forget_empty).mut_subcommands(without_empty_variables)
}

/// A variable that is set to something.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

async fn run_command(cli: Cli) -> Outcome {
    let globals = cli.globals;
    match cli.command {
        Command::Record(record) => record.run(&globals).await,
        Command::At(at) => at.run(&globals).await,
        Command::History(history) => history.run(&globals).await,
        Command::Tags(tags) => tags.run(&globals).await,
        Command::Repositories(tags) => tags.run(&globals).await,
        Command::Where(sightings) => sightings.run(&globals).await,
        Command::Ran(ran) => ran.run(&globals).await,
        Command::Diff(diff) => diff.run(&globals).await,
        Command::Entry(entry) => entry.run(&globals).await,
        Command::Principal(command) => command.run(&globals).await,
        Command::Key(command) => command.run(&globals).await,
        Command::Prove(prove) => prove.run(&globals).await,
        Command::Verify(verify) => verify.run(&globals),
        Command::Audit(audit) => audit.run(&globals).await,
        Command::Policy(policy) => policy.run(&globals).await,
        Command::Checkpoint(checkpoint) => checkpoint.run(&globals).await,
        Command::Watch(watch) => watch.run(&globals).await,
        Command::Completions(completions) => completions.run(),
        Command::Man(man) => man.run(),
    }
}

impl Globals {
    /// Connects to the ledger, and tells of a key that was pinned just now.
    async fn open(&self) -> Result<RemoteLedger, Failure> {
        let server: Server = self.server.parse()?;
        let trust = self.trust_folder()?;
        let known_ledgers = trust.known_ledgers();
        let (ledger, pin) = RemoteLedger::open(server, self.credentials()?, trust, self.vkey.clone()).await?;
        if pin == Pin::New {
            eprintln!(
                "tagledger: first contact with {}: its key is now pinned in {}\n  {}\n  Compare it with the operator's.",
                ledger.server(),
                known_ledgers.display(),
                ledger.vkey()
            );
        }
        Ok(ledger)
    }

    /// What to show the server. A token that is typed counts before what the environment says. Not clap's: to it both are
    /// given, and would be in conflict.
    fn credentials(&self) -> Result<Credentials, Failure> {
        let file = self.token_file.clone().or_else(|| variable("TAGLEDGER_TOKEN_FILE").map(PathBuf::from));
        let token = match (&self.token, file) {
            (Some(token), _) => Some(Zeroizing::new(token.clone())),
            (None, Some(path)) => Some(Zeroizing::new(secret(&path)?.trim().to_owned())),
            (None, None) => {
                variable("TAGLEDGER_TOKEN").map(|token| Zeroizing::new(token.to_string_lossy().into_owned()))
            }
        };
        let identity = match (&self.cert, &self.key) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some(Identity { certificate: text_of(cert)?.to_string(), key: secret(key)? }),
            _ => return Err(Failure::Usage("--cert and --key go together".to_owned())),
        };
        let ca = self.ca_file.as_deref().map(text_of).transpose()?.map(|text| text.to_string());
        Ok(Credentials { token, ca, identity })
    }

    fn trust_folder(&self) -> Result<TrustFolder, Failure> {
        if let Some(path) = &self.trust {
            return Ok(TrustFolder::new(path.clone()));
        }
        let from = |name| variable(name).map(PathBuf::from);
        let state = from("XDG_STATE_HOME").or_else(|| from("HOME").map(|home| home.join(".local/state")));
        let no_home = || Failure::Usage("there is no home directory: name the trust folder with --trust".to_owned());
        state.map(|state| TrustFolder::new(state.join("tagledger"))).ok_or_else(no_home)
    }

    /// Asks, and shows the answer.
    async fn answer(&self, question: Question, answering: &Answering) -> Outcome {
        let (answer, claimed) = self.open().await?.ask(question).await?;
        answering.keep(&claimed)?;
        show::answer(&answer, &answering.output)
    }
}

/// What is in a file, wiped from memory after use.
fn text_of(path: &Path) -> Result<Zeroizing<String>, Failure> {
    std::fs::read_to_string(path)
        .map(Zeroizing::new)
        .map_err(|error| Failure::Operational(format!("cannot read {}: {error}", path.display())))
}

/// A token or a private key; refused if others may read it. A pipe has no others.
fn secret(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let unreadable = |error| Failure::Operational(format!("cannot read {}: {error}", path.display()));
    let about = std::fs::metadata(path).map_err(unreadable)?;
    let mode = about.permissions().mode() & 0o7777;
    if about.is_file() && mode & 0o077 != 0 {
        let path = path.display();
        return Err(Failure::Operational(format!(
            "{path} may be read by others (mode {mode:04o}); run: chmod 600 {path}"
        )));
    }
    text_of(path)
}

impl Answering {
    fn keep(&self, claimed: &Claimed) -> Result<(), Failure> {
        let Some(path) = &self.save else { return Ok(()) };
        saved::save(path, claimed).map_err(|error| Failure::Operational(error.to_string()))
    }
}

/// Prints an answer to standard output.
fn print(text: &str) -> Result<(), Failure> {
    write_out(&visible_lines(text))
}

/// The same lines, with every other control character written out: whatever else was overlooked, nothing moves the cursor.
fn visible_lines(text: &str) -> Cow<'_, str> {
    if !text.chars().any(|c| is_unseen(c) && c != '\n') {
        return text.into();
    }
    text.split('\n').map(visible).collect::<Vec<_>>().join("\n").into()
}

/// Says on standard error what went wrong.
fn complain(message: &str) {
    let width = if io::stderr().is_terminal() { terminal_width() } else { None };
    let text = format!("tagledger: {}", visible_lines(message));
    let text: String = text.lines().map(|line| wrap(line, width, 2)).collect();
    eprint!("{text}");
}

/// Writes to standard output. A reader that went away, as `head` does, is no failure.
fn write_out(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Operational(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::{Cli, visible_lines};

    #[test]
    fn the_arguments_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn only_lines_are_left_of_control_characters() {
        assert_eq!(visible_lines("a\nb\n"), "a\nb\n");
        assert_eq!(visible_lines("a\u{202e}b\u{2028}"), "a\\u202eb\\u2028");
        assert_eq!(visible_lines("a\u{1b}[2J\nb\u{9b}\r"), "a\\u001b[2J\nb\\u009b\\u000d");
    }
}
