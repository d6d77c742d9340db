#!/bin/bash
# Runs small grids on the CPU and on a GPU that Vulkan knows, and compares them: losses step by step, what models say of the test, and metrics.
# Mesa's software Vulkan will do; what was found is in docs/gpu.md.
#
#   tests/tools/vulkan-quickstart.sh [--install] [--device NAME] [--binary FILE] [--keep DIR] [GRID…]
#
# --install    installs Mesa's driver and Vulkan's loader (Debian, root)
# --device     what is compared with the CPU; vulkan:0 when absent
# --binary     a w2s that knows the device, in place of one that is built
# --keep       where results go, and stay; what is finished there is not done again
# GRID         some of: quickstart selective words judged; all when absent
#
# Exit code: 0 if all agree to 1e-3, 1 if not.
set -euo pipefail
cd "$(dirname "$0")/../.."
device=vulkan:0 w2s="" place="" grids=()
while [ $# -gt 0 ]; do
  case $1 in
    --install)
      [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || { echo "--install needs root and apt-get" >&2; exit 2; }
      DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends mesa-vulkan-drivers libvulkan1 vulkan-tools ;;
    --device) device=$2; shift ;;
    --binary) w2s=$2; shift ;;
    --keep) place=$2; shift ;;
    -*) sed -n '2,14s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    *) grids+=("$1") ;;
  esac
  shift
done
[ ${#grids[@]} -gt 0 ] || grids=(quickstart selective words judged)
if [ -z "$place" ]; then
  place=$(mktemp -d)
  trap 'rm -rf "$place"' EXIT
fi
mkdir -p "$place/grids"

# On a CPU it takes seconds to compile a kernel: fewer are tried before one is chosen.
export CUBECL_AUTOTUNE_LEVEL=${CUBECL_AUTOTUNE_LEVEL:-minimal}

if [ -z "$w2s" ]; then
  tests/tools/mended-cubecl.sh
  w2s=$PWD/target/release/w2s
fi

# The quickstart's world with a fifth of its animals and a tenth of its text, with P(IK) and graph smoothing beside its baselines.
small=$place/grids/quickstart
mkdir -p "$small/worlds" "$small/models"
sed 's/^entities = .*/entities = 180/; s/^tokens = .*/tokens = 140_000/' configs/worlds/quickstart.toml >"$small/worlds/quickstart.toml"
for model in strong weak; do sed 's/^tokens = .*/tokens = 90_000/' "configs/models/world-$model.toml" >"$small/models/world-$model.toml"; done
cp configs/quickstart.toml "$small/quickstart.toml"

# The arguments of a grid, without the device.
arguments() {
  case $1 in
    quickstart)
      echo "$small/quickstart.toml tasks=world-home seeds=0 methods=finetune,aux-confidence,product,adaptive,reverse-kl,js,selective" \
        "p_ik.task=world-sound p_ik.shots=0 p_ik.balance=undersample self_labels.shots=0 method.selective.selector.type=p-ik" \
        "method.selective.selector.gamma=0.3 method.selective.refiner.type=graph-smoothing" ;;
    selective) echo "tests/fixtures/tiny/$1.toml" ;;
    # At the tests' own rate a difference of rounding grows tenfold in a few steps.
    *) echo "tests/fixtures/tiny/$1.toml train.learning_rate=1e-3" ;;
  esac
}

# Stages of a grid with their folders: `WHAT<tab>FOLDER`, in the order of the plan.
stages() {
  awk -F, -v root="$1/stages" 'NR > 1 { print $2 "\t" root "/" $1 }' "$1/$2/timings.csv"
}

# Largest difference of the numbers in two files of comma-separated values, and of one column of them if one is named: `ROWS LARGEST`, or
# what is not alike. A number is compared with 1 where it is larger: losses near zero are compared as they are.
difference() {
  paste -d'\n' "$1" "$2" | awk -F, -v column="${3:-}" -v number='^-?[0-9]+([.][0-9]+)?([eE][-+]?[0-9]+)?$' '
    function apart(a, b,  d, s) { d = a - b; if (d < 0) d = -d; s = a < 0 ? -a : a; return s > 1 ? d / s : d }
    NR % 2 { split($0, one); fields = NF; line = $0; next }
    NR == 2 { for (i = 1; i <= NF; i++) wanted[i] = column == "" || $i == column; if (line != $0) { print "other columns"; bad = 1; exit } next }
    fields != NF { print "another number of rows or columns"; bad = 1; exit }
    { rows++; for (i = 1; i <= NF; i++) if (wanted[i] && ($i "" != one[i] "" || column != "")) {
        # What is not finite is no number: it is not alike, not even to itself.
        if ($i !~ number || one[i] !~ number) { print "`" one[i] "` and `" $i "`"; bad = 1; exit }
        d = apart(one[i], $i); if (d > most) most = d } }
    END { if (NR % 2 && !bad) { print "another number of rows or columns"; bad = 1 }
      if (!bad && !rows) { print "no rows"; bad = 1 }
      if (!bad) printf "%d %.2e\n", rows, most }'
}

worse=0
for grid in "${grids[@]}"; do
  for where in cpu "$device"; do
    results=$place/$grid-${where//:/}
    began=$(date +%s.%N)
    # shellcheck disable=SC2046
    "$w2s" run $(arguments "$grid") --device "$where" --results "$results" --quiet >"$results.txt" 2>&1 || { cat "$results.txt"; exit 1; }
    printf '%-12s %-10s %6.0f s\n' "$grid" "$where" "$(echo "$(date +%s.%N) - $began" | bc)"
  done
  cpu=$place/$grid-cpu gpu=$place/$grid-${device//:/}
  # What is compared: every log, and what is said of the test. Labels that are drawn or chosen by a threshold may differ where two are near.
  while IFS=$'\t' read -r what folder other; do
    for file in $(cd "$folder" && ls log*.csv test.csv steps/*/test.csv 2>/dev/null); do
      column=""; [ "${file##*/}" = test.csv ] || column=loss
      found=$(difference "$folder/$file" "$other/$file" $column)
      sign=$(echo "$found" | awk 'NF == 2 && $1 ~ /^[0-9]+$/ && $2 + 0 <= 1e-3 { print "  " ; next } { print "✗ " }')
      [ "$sign" = "  " ] || worse=1
      printf '%s%-58s %-14s %s\n' "$sign" "$what" "$file" "$found"
    done
  done < <(paste <(stages "$cpu" "$grid") <(stages "$gpu" "$grid") | awk -F'\t' '$1 == $3 { print $1 "\t" $2 "\t" $4 }')
  diff <(stages "$cpu" "$grid" | cut -f1) <(stages "$gpu" "$grid" | cut -f1) || worse=1
  # task, method, seed, metric and value of all results, where the values differ.
  metrics() { awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
    { print $at["task"] "," $at["method"] "," $at["seed"] "," $at["step"] "," $at["metric"] "," $at["value"] }' "$1/$grid/results.csv"; }
  diff <(metrics "$cpu") <(metrics "$gpu") | sed 's/^/  /' || true
  accuracy=$(difference <(echo accuracy; metrics "$cpu" | awk -F, '$5 == "accuracy" { print $6 }') \
    <(echo accuracy; metrics "$gpu" | awk -F, '$5 == "accuracy" { print $6 }'))
  echo "$accuracy" | awk 'NF != 2 || $1 !~ /^[0-9]+$/ || $2 + 0 > 1e-3 { exit 1 }' || worse=1
  printf '%-12s accuracies (rows, largest difference): %s\n' "$grid" "$accuracy"
done
exit $worse
