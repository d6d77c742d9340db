#!/bin/bash
# Builds w2s for GPUs by Vulkan with a CubeCL that is mended: for drivers without VK_KHR_workgroup_memory_explicit_layout, such as Mesa's software
# Vulkan, which CubeCL 0.11.3 gives invalid SPIR-V (docs/gpu.md). On other drivers the kernels are the same.
#
#   tests/tools/mended-cubecl.sh [ARGUMENT…]
#
# ARGUMENT   what cargo is called with; `build --release --features wgpu` when absent
set -euo pipefail
cd "$(dirname "$0")/../.."
[ $# -gt 0 ] || set -- build --release --features wgpu

found=$(cargo metadata --features wgpu --format-version 1 --filter-platform "$(rustc -vV | sed -n "s/^host: //p")" | grep -o '"manifest_path":"[^"]*/cubecl-spirv-[^"/]*/Cargo.toml"' | head -1)
published=$(dirname "$(echo "$found" | cut -d'"' -f4)")
mended=$PWD/target/mended/cubecl-spirv
rm -rf "$mended"
mkdir -p "$(dirname "$mended")"
cp -rp "$published" "$mended"

# `lower_shared_implicit` has the type of the memory and that of the pointer to it exchanged.
file=$mended/src/ops/memory.rs
memory='        let ty = ty_to_spirv_dialect(ctx, slice.value_ty(ctx).get_type(ctx));'
pointer='        let value_ty = ty_to_spirv_dialect(ctx, slice.result_type(ctx));'
if ! grep -A1 -Fx "$memory" "$file" | grep -qFx "$pointer"; then
  echo "$published is not as it was in 0.11.3: see whether it is mended there" >&2
  exit 1
fi
awk -v memory="$memory" -v pointer="$pointer" '
  $0 == memory { sub("let ty", "let value_ty"); print; next }
  $0 == pointer { sub("let value_ty", "let ty"); print; next }
  { print }' "$file" >"$file.new"
mv "$file.new" "$file"
# Cargo goes by times: what was built is not built again.
touch -r "$published/src/ops/memory.rs" "$file"

# A crate from a folder is another one to Cargo.lock.
cp Cargo.lock target/mended/Cargo.lock
trap 'cp target/mended/Cargo.lock Cargo.lock' EXIT
W2S_MENDED_CUBECL=1 cargo --config "patch.crates-io.cubecl-spirv.path='$mended'" "$@"
