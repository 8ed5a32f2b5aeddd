#!/bin/sh
# What is in this folder, made anew from the versions that npm has: two files of Preact, one of htm, as they are but for
# the import of "preact" (a page without inline scripts has no import map) and the source maps. Then check `git diff`.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for package in preact@11.2.0 htm@3.1.1; do
  (cd "$work" && tar -xzf "$(npm pack --silent "$package")" && mv package "${package%@*}")
  cp "$work/${package%@*}/LICENSE" "LICENSE-${package%@*}.txt"
done
unmapped() { sed -e '/^\/\/# sourceMappingURL=/d' "$1"; }
unmapped "$work/preact/dist/preact.mjs" >preact.js
unmapped "$work/preact/hooks/dist/hooks.mjs" | sed -e 's/from"preact"/from".\/preact.js"/' >hooks.js
unmapped "$work/htm/dist/htm.mjs" >htm.js
sha256sum ./*.js ./*.txt >SHA256SUMS
