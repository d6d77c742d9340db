//! What is compiled and measured for a GPU is kept for the stages to come, each of which is a process of its own.

use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig, cache::CacheConfig};

/// Says where CubeCL keeps compiled kernels and which of them are the fastest: in the user's cache folder, unless a `cubecl.toml` says otherwise.
/// By itself it would keep the latter alone, under `target` in the current folder.
pub(super) fn keep() {
    let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
    if matches!(config.environment.path, CacheConfig::Target) {
        config.environment.path = CacheConfig::Global;
    }
    if config.environment.name == cubecl::environment::DEFAULT {
        // One database for each machine: processes that share one need a file system on which locks and memory maps work.
        config.environment.name = format!("w2s-{}", crate::locks::machine());
    }
    config.compilation.cache = true;
    // Whoever was first has said the same.
    CubeClRuntimeConfig::try_set(config);
}
