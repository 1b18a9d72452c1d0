# shellcheck shell=bash
# Helpers of the repository tests (source it): facts are checked one by one, the last line counts them.
# Policy: a check prints what it expected and what it saw; the exit code is that of finish.

checks_passed=0
checks_failed=0

pass() { checks_passed=$((checks_passed + 1)); printf 'ok    %s\n' "$1"; }
flunk() { # fact, then what was seen
  checks_failed=$((checks_failed + 1))
  printf 'FAIL  %s\n' "$1"
  if [[ -n "${2:-}" ]]; then printf '%s\n' "$2" | head -n 30 | sed 's/^/      /'; fi
}
# expect_code FACT WANTED SEEN [OUTPUT]
expect_code() { if [[ "$2" == "$3" ]]; then pass "$1"; else flunk "$1" "expected exit code $2, saw $3"$'\n'"${4:-}"; fi; }
# expect_text FACT PATTERN TEXT (an extended regular expression)
expect_text() { if grep -Eq -- "$2" <<<"$3"; then pass "$1"; else flunk "$1" "expected a line matching: $2"$'\n'"saw: $3"; fi; }
expect_no_text() { if grep -Eq -- "$2" <<<"$3"; then flunk "$1" "expected no line matching: $2"$'\n'"saw: $3"; else pass "$1"; fi; }

finish() {
  printf '%d passed, %d failed\n' "$checks_passed" "$checks_failed"
  ((checks_failed == 0))
}
