//! The `w2s` binary: links the strategies, then hands over to the command line.

// A crate that is only listed in Cargo.toml is not linked, and its strategies would not exist.
use w2s_plugins as _;
use w2s_strategies as _;

#[global_allocator]
static ALLOCATOR: w2s_core::alloc::Allocator = w2s_core::alloc::Allocator;

fn main() -> std::process::ExitCode {
    w2s_core::alloc::keep_freed_memory();
    w2s_core::cli::main(option_env!("W2S_COMMIT"))
}
