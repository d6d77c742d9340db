//! `w2s completions` and `w2s man`: what shells and `man` are told of the command line, made of the command line itself.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;

use super::{Cli, schema::make, table::print};
use crate::{Result, error::IoContext};

#[derive(Args)]
pub struct CompletionsArgs {
    /// The shell that will read them
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Args)]
pub struct ManArgs {
    /// Folder that gets a page for each command, in place of the first page on standard output
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// The command line without the commands that are for w2s itself, which scripts and pages would show; clap takes none away again.
fn shown() -> Command {
    let all = Cli::command();
    let shown = all.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    Command::new("w2s")
        .version(env!("CARGO_PKG_VERSION"))
        .about(all.get_about().cloned().unwrap_or_default())
        .after_help(all.get_after_help().cloned().unwrap_or_default())
        .subcommand_required(true)
        .subcommands(shown)
}

/// `w2s completions`.
pub fn completions(args: &CompletionsArgs) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut shown(), "w2s", &mut script);
    print(String::from_utf8_lossy(&script).trim_end())?;
    Ok(ExitCode::SUCCESS)
}

/// `w2s man`.
pub fn man(args: &ManArgs) -> Result<ExitCode> {
    let Some(folder) = &args.out else {
        let mut page = Vec::new();
        // Writing to memory cannot fail.
        let _ = Man::new(shown().disable_help_subcommand(true)).render(&mut page);
        print(String::from_utf8_lossy(&page).trim_end())?;
        return Ok(ExitCode::SUCCESS);
    };
    make(folder)?;
    clap_mangen::generate_to(shown(), folder).path("write the pages of the manual", folder)?;
    print(&folder.display().to_string())?;
    Ok(ExitCode::SUCCESS)
}
