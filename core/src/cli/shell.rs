//! `w2s completions` and `w2s man`: what shells and `man` are told of the command line, made of the command line itself.

use std::{fs, path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;

use super::{Cli, table::print};
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

/// `w2s completions`.
pub fn completions(args: &CompletionsArgs) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "w2s", &mut script);
    print(String::from_utf8_lossy(&script).trim_end())?;
    Ok(ExitCode::SUCCESS)
}

/// `w2s man`.
pub fn man(args: &ManArgs) -> Result<ExitCode> {
    let Some(folder) = &args.out else {
        let mut page = Vec::new();
        // Writing to memory cannot fail.
        let _ = Man::new(Cli::command()).render(&mut page);
        print(String::from_utf8_lossy(&page).trim_end())?;
        return Ok(ExitCode::SUCCESS);
    };
    fs::create_dir_all(folder).path("create a folder", folder)?;
    clap_mangen::generate_to(Cli::command(), folder).path("write the pages of the manual", folder)?;
    print(&folder.display().to_string())?;
    Ok(ExitCode::SUCCESS)
}
