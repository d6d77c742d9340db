#!/bin/sh
# Builds w2s for NVIDIA GPUs where Burn's LLVM cannot be downloaded: kernels are compiled at run time by NVRTC instead.
#
#   sh docs/cuda-without-llvm.sh [TARGET_DIR]        (default: target/cuda)
#
# The binary needs libcuda.so (the driver) and libnvrtc.so on the machine it runs on. Run it from the repository's root, with cargo, cc and nm at hand.
set -eu

target=${1:-target/cuda}
binary=$target/release/w2s
# The build script of Burn's compiler skips the download when it believes that only documentation is built.
export DOCS_RS=1

build() {
    # Only the binary's link gets the argument: RUSTFLAGS would build every dependency again.
    cargo rustc --release --features cuda-cpp --bin w2s --target-dir "$target" -- -C "link-arg=$1"
}

# First link: with holes where LLVM would be.
build -Wl,--unresolved-symbols=ignore-all

# Second link: the holes filled. Kernels go through NVRTC, so these are never called; if one is, it says so and ends.
stubs=$target/no-llvm
mkdir -p "$stubs"
nm -uD "$binary" | awk '$NF ~ /^(LLVM|cubecl_)/ { print $NF }' | sort -u > "$stubs/symbols"
if [ -s "$stubs/symbols" ]; then
    {
        cat <<'C'
#include <stdio.h>
#include <stdlib.h>
static void absent(const char *name) { fprintf(stderr, "%s: this binary was built without LLVM\n", name); exit(2); }
C
        sed 's/.*/void &(void) { absent("&"); }/' "$stubs/symbols"
    } > "$stubs/stubs.c"
    cc -O1 -fPIC -c "$stubs/stubs.c" -o "$stubs/stubs.o"
    build "$(cd "$stubs" && pwd)/stubs.o"
fi

"$binary" --version > /dev/null
echo "$binary: built with CUDA, $(wc -l < "$stubs/symbols") LLVM functions left out, $(($(wc -c < "$binary") / 1000000)) MB"
