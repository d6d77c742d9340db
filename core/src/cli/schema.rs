//! `w2s schema`: what editors need to complete and check the files that users write.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;

use super::{list::library, say, table::print};
use crate::{Result, error::IoContext, grid::FileKind, stage::write_atomically};

/// Makes the folder that is to be written to.
pub fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)
        .path("create a folder", folder)
        .map_err(|error| error.or_else_help("choose another folder with `--out DIR`"))
}

#[derive(Args)]
pub struct SchemaArgs {
    /// Of which kind of file; of all, with `--out`, when absent
    #[arg(value_enum, required_unless_present = "out")]
    what: Option<FileKind>,
    /// Folder that gets a file for each kind, such as grid.schema.json, in place of standard output
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// `w2s schema`.
pub fn schema(args: &SchemaArgs) -> Result<ExitCode> {
    let library = library();
    let kinds = args.what.map_or_else(|| FileKind::ALL.to_vec(), |what| vec![what]);
    for kind in kinds {
        let text = format!("{:#}", kind.schema(&library));
        let Some(folder) = &args.out else {
            print(&text)?;
            continue;
        };
        make(folder)?;
        let file = folder.join(format!("{}.schema.json", kind.name()));
        write_atomically(&file, (text + "\n").as_bytes())?;
        print(&file.display().to_string())?;
    }
    if args.out.is_some() {
        say!(
            "hint: an editor goes by it where the first line of a file is `#:schema PATH`, relative to that file; docs/editor.md says more"
        );
    }
    Ok(ExitCode::SUCCESS)
}
