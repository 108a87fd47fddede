#!/usr/bin/env bash
# Runs every fuzz target of the module for $1 each (go test takes one at a time).
set -euo pipefail
cd "$(dirname "$0")/.."
grep -rl --include='*_test.go' --exclude-dir=.tools '^func Fuzz' . | xargs -n1 dirname | sort -u | while read -r pkg; do
  grep -ho '^func Fuzz[A-Za-z0-9_]*' "$pkg"/*_test.go | cut -c6- | while read -r target; do
    go test -run '^$' -fuzz "^${target}\$" -fuzztime "$1" "$pkg"
  done
done
