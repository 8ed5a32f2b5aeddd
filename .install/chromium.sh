#!/usr/bin/env bash
# Debian's Chromium, in which the page is tested. Without root or apt-get there is none, and those tests are skipped.
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  apt-get install -qq --no-install-recommends chromium >/dev/null 2>&1 ||
    { apt-get update -qq && apt-get install -qq --no-install-recommends chromium >/dev/null; } && exit
fi
echo "No Chromium, and no way to install it here: the page's tests will be skipped. As root: apt-get install chromium" >&2
