# Sourced by deploy/quickstart and tests/run: installs the programs that they need.
#
#   need COMMAND DEBIAN-PACKAGE BREW-FORMULA   records a missing command
#   install_missing                            installs the packages, or lists them and exits
#
# Debian and Ubuntu: apt (with sudo if not root). macOS: brew. The package list is fetched only if a
# command is missing, so that a second run needs no network.

missing_commands="" missing_debian="" missing_brew=""

die() {
  printf '\n%s\n' "$*" >&2
  exit 1
}

need() {
  command -v "$1" >/dev/null 2>&1 || note_missing "$@"
}

note_missing() {
  missing_commands="$missing_commands $1"
  missing_debian="$missing_debian $2"
  missing_brew="$missing_brew $3"
}

install_missing() {
  [ -n "$missing_commands" ] || return 0
  if command -v apt-get >/dev/null 2>&1; then
    printf 'Installing%s (apt)\n' "$missing_debian" >&2
    install_with_apt
  elif [ "$(uname)" = Darwin ] && command -v brew >/dev/null 2>&1; then
    printf 'Installing%s (brew)\n' "$missing_brew" >&2
    # shellcheck disable=SC2086 # a list of names
    brew install --quiet $missing_brew >&2 || die "brew could not install:$missing_brew"
  else
    die "Missing:$missing_commands
Install them (packages of Debian and Ubuntu:$missing_debian), then run this again."
  fi
  missing_commands="" missing_debian="" missing_brew=""
}

install_with_apt() {
  local root="" log
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null 2>&1 || die "Run as root: apt-get install$missing_debian"
    root="sudo"
  fi
  log=$(mktemp)
  # shellcheck disable=SC2086 # lists of names
  if { $root apt-get -o DPkg::Lock::Timeout=300 update &&
    $root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y \
      --no-install-recommends $missing_debian; } >"$log" 2>&1 </dev/null; then
    rm -f "$log"
  else
    tail -n 15 "$log" >&2
    rm -f "$log"
    die "apt could not install:$missing_debian"
  fi
}

need_rust() {
  # rustup's folder is missing in the PATH of a shell that does not read its profile.
  command -v cargo >/dev/null 2>&1 || PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
  command -v cargo >/dev/null 2>&1 ||
    die "No Rust toolchain (cargo) found. Install one from https://rustup.rs, then run this again."
}

need_c_compiler() {
  command -v cc >/dev/null 2>&1 && return
  [ "$(uname)" != Darwin ] || die "No C compiler found. Run: xcode-select --install"
  note_missing cc "gcc libc6-dev" gcc
}
