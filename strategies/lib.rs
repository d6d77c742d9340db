//! The strategies that come with w2s. One file each, in `supervisors/`, `selectors/`, `refiners/` and `losses/`.
//!
//! Nothing here names another strategy, a file or a device: a strategy is a configured value and a pure function.

include!(concat!(env!("OUT_DIR"), "/modules.rs"));
