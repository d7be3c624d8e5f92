//! `completions`, `man`: the command line describes itself.

use std::path::PathBuf;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, Ending, Failure, Outcome, write_out};

/// Print the completions of a shell
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tagledger completions bash > ~/.local/share/bash-completion/completions/tagledger")]
pub(super) struct Completions {
    /// Which shell
    shell: Shell,
}

/// Print the manual page, or write all of them into a folder
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tagledger man | man -l -\n  tagledger man --out ~/.local/share/man/man1")]
pub(super) struct Man {
    /// Write one page for each command into this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Completions {
    pub(super) fn run(self) -> Outcome {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "tagledger", &mut text);
        write_out(&String::from_utf8_lossy(&text))?;
        Ok(Ending::Answered)
    }
}

impl Man {
    pub(super) fn run(self) -> Outcome {
        let Some(folder) = self.out else {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command())
                .render(&mut page)
                .map_err(|error| Failure::Operational(format!("cannot render the manual page: {error}")))?;
            write_out(&String::from_utf8_lossy(&page))?;
            return Ok(Ending::Answered);
        };
        std::fs::create_dir_all(&folder)
            .and_then(|()| clap_mangen::generate_to(Cli::command(), &folder))
            .map_err(|error| Failure::Operational(format!("cannot write into {}: {error}", folder.display())))?;
        Ok(Ending::Answered)
    }
}
