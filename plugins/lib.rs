//! Your strategies. Put one `.rs` file into this folder and it exists: in `w2s list`, in grids, in tables, and under the
//! conformance tests. `docs/plugin.md` walks through one.

include!(concat!(env!("OUT_DIR"), "/modules.rs"));
