# shellcheck shell=bash disable=SC2034
# What the acceptance scripts share (source it): where atoll is, how MPI is started, how figures and the verdict are printed.
# Policy: one verdict a script, as its last line: PASS (exit 0), FAIL (exit 1) or SKIPPED with the reason (exit 77). Nothing is assumed to have passed.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$repo" || exit 1
bar=$(basename "$0")
atoll=${ATOLL_BIN:-}
work=$(mktemp -d "${TMPDIR:-/tmp}/atoll-$bar.XXXXXX")
trap 'rm -rf "$work"' EXIT
failures=0

figure() { printf '%s: %s\n' "$bar" "$1"; }
# hold FACT STATUS [SEEN]: a figure that must hold, status 0 when it does.
hold() {
  if (($2 == 0)); then figure "ok    $1"; return 0; fi
  failures=$((failures + 1))
  figure "WRONG $1"
  if [[ -n "${3:-}" ]]; then printf '%s\n' "$3" | head -n 20 | sed 's/^/          /'; fi
}
# compare "A" OP "B" in floating point; status 0 when it holds.
compare() { awk -v a="$1" -v b="$3" -v op="$2" 'BEGIN {
  if (a !~ /^[-+]?[0-9.]+([eE][-+]?[0-9]+)?$/ || b !~ /^[-+]?[0-9.]+([eE][-+]?[0-9]+)?$/) exit 1
  a += 0; b += 0
  ok = op == "<" ? a < b : op == "<=" ? a <= b : op == ">" ? a > b : op == ">=" ? a >= b : op == "==" ? a == b : 0
  exit !ok }'; }
check() { # FACT A OP B
  if compare "$2" "$3" "$4"; then hold "$1: $2 $3 $4" 0; else hold "$1: $2 is not $3 $4" 1; fi
}
finish() {
  if ((failures == 0)); then printf '%s: PASS\n' "$bar"; exit 0; fi
  printf '%s: FAIL (%d figures do not hold)\n' "$bar" "$failures"
  exit 1
}
# What could not be tried is skipped only where nothing that was tried is wrong.
skip() {
  if ((failures > 0)); then figure "not tried: $1"; finish; fi
  printf '%s: SKIPPED (%s)\n' "$bar" "$1"
  exit 77
}
broken() { printf '%s: FAIL (%s)\n' "$bar" "$1"; exit 1; }
need() { local tool; for tool in "$@"; do command -v "$tool" >/dev/null 2>&1 || skip "$tool is not installed: apt-get install -y $tool"; done; }

# The release program, built if it is not there; ATOLL_BIN names another.
need_atoll() {
  if [[ -z "$atoll" ]]; then
    # shellcheck source=launch/packages.sh
    source launch/packages.sh
    [[ -f build/release/build.ninja ]] || cmake --preset release >"$work/configure.log" 2>&1 || { tail -n 20 "$work/configure.log"; broken "cmake failed"; }
    cmake --build build/release --target atoll -j "$(build_jobs)" >"$work/build.log" 2>&1 || { tail -n 30 "$work/build.log"; broken "the build failed"; }
    atoll=$repo/build/release/atoll
  fi
  [[ -x "$atoll" ]] || broken "$atoll is not a program"
}
# Whether build/dev has this target. (A pipe into `grep -q` would end the lister by SIGPIPE now and then, which pipefail takes for "no".)
has_target() {
  local all
  all=$(cmake --build build/dev --target help 2>/dev/null) || return 1
  grep -q "^$1:" <<<"$all"
}
# A test program of the dev build, built if needed: need_test test_model; then $test_program.
need_test() {
  # shellcheck source=launch/packages.sh
  source launch/packages.sh
  [[ -f build/dev/build.ninja ]] || cmake --preset dev >"$work/configure.log" 2>&1 || { tail -n 20 "$work/configure.log"; broken "cmake failed"; }
  cmake --build build/dev --target "$1" -j "$(build_jobs)" >"$work/build.log" 2>&1 || { tail -n 30 "$work/build.log"; broken "building $1 failed"; }
  test_program=$(find "$repo/build/dev" -name "$1" -type f -perm -u+x | head -n 1)
  [[ -n "$test_program" ]] || broken "$1 was not built"
}
# run_cases FACT PROGRAM TAGS: runs test cases by tag; no case is a failure, not a pass. Prints what the cases printed as figures ("figure: ..." lines).
run_cases() {
  local status=0 out cases
  cases=$("$2" --list-test-names-only "$3" 2>/dev/null | grep -c . || true)
  if ((cases == 0)); then hold "$1" 1 "no test case has the tags $3 in $(basename "$2")"; return 0; fi
  out=$(timeout 3000 "$2" "$3" -d yes 2>&1) || status=$?
  grep -E '^ *figure:' <<<"$out" || true
  grep -E '^[0-9.]+ s: ' <<<"$out" || true
  hold "$1 ($cases test cases $3)" "$status" "$(tail -n 40 <<<"$out")"
}

# mpi RANKS -> the array $mpi
mpi_prefix() {
  mpi=(mpirun -n "$1" --bind-to none --oversubscribe --mca btl_vader_single_copy_mechanism none)
  if [[ "$(id -u)" == 0 ]]; then mpi+=(--allow-run-as-root); fi
}

# A small token store of this machine's licences and this repository, made once a script.
small_store() {
  store=$work/store
  [[ -f "$store/store.json" ]] && return 0
  "$atoll" data prepare /usr/share/common-licenses README.md docs kernels parallel model --tokenizer train:512 --held-out 5% --out "$store" \
    >"$work/prepare.log" 2>&1 || { tail -n 20 "$work/prepare.log"; broken "atoll data prepare failed"; }
}
