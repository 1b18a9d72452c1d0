# shellcheck shell=bash disable=SC2034
# What Atoll needs from apt, and how to get it: the one list, read by launch/quickstart and tests/run (source it, do not run it).
# Nothing is installed without being named first; without root or sudo the one line to run is printed instead.

# ocl-icd-opencl-dev: Debian's oneDNN is built with OpenCL, and its CMake file refuses to be found without those headers.
packages_to_build=(
  g++ cmake ninja-build ccache pkg-config
  libopenmpi-dev openmpi-bin libdnnl-dev ocl-icd-opencl-dev
  libyaml-cpp-dev libcli11-dev libspdlog-dev libfmt-dev nlohmann-json3-dev
  libhdf5-dev libsentencepiece-dev libxxhash-dev
)
packages_to_test=(catch2 git)

# Prints those of its arguments that dpkg does not have installed.
packages_missing() {
  local package
  for package in "$@"; do
    [[ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" == installed ]] || printf '%s\n' "$package"
  done
}

# How this user becomes root: "" (already root), "sudo", or nothing at all (status 1).
packages_root_command() {
  if [[ "$(id -u)" == 0 ]]; then
    return 0
  fi
  command -v sudo >/dev/null 2>&1 || return 1
  # With a terminal sudo may ask for the password; without one it must not have to.
  if sudo -n true 2>/dev/null || { [[ -t 0 ]] && sudo -v; }; then
    echo sudo
    return 0
  fi
  return 1
}

# packages_install NAME...: installs what is missing of NAME..., says so first. Status 1 when it cannot.
packages_install() {
  if ! command -v dpkg-query >/dev/null 2>&1 || ! command -v apt-get >/dev/null 2>&1; then
    echo "This machine has no apt. Atoll is built and tested on Debian 12; it needs what these Debian packages hold:" >&2
    echo "  $*" >&2
    return 1
  fi
  local -a missing
  mapfile -t missing < <(packages_missing "$@")
  if ((${#missing[@]} == 0)); then
    return 0
  fi
  echo "To be installed with apt (${#missing[@]} of $# needed packages are missing): ${missing[*]}"
  local root
  if ! root=$(packages_root_command); then
    echo "Installing needs root, and neither root nor a working sudo is at hand. Run this line as root, then start again:" >&2
    echo "  apt-get update && apt-get install -y --no-install-recommends ${missing[*]}" >&2
    return 1
  fi
  local -a as_root=(${root:+"$root"} env DEBIAN_FRONTEND=noninteractive)
  local -a options=(-y -q --no-install-recommends -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0)
  # An earlier run may have been interrupted between unpacking and configuring.
  if [[ -n "$(dpkg --audit 2>/dev/null)" ]]; then
    "${as_root[@]}" dpkg --configure -a || return 1
  fi
  "${as_root[@]}" apt-get -q update >/dev/null || echo "apt-get update failed; going on with the lists at hand" >&2
  if ! "${as_root[@]}" apt-get "${options[@]}" --fix-broken install "${missing[@]}" >/dev/null; then
    echo "apt-get install failed (its message stands above). Is the network up, and is this Debian 12 or newer?" >&2
    return 1
  fi
}

# How many compilers may run at once: one a core, and about 1 GB of memory for each.
build_jobs() {
  local cores memory_kb by_memory
  cores=$(nproc)
  memory_kb=$(awk '/^MemAvailable:/ {print $2}' /proc/meminfo)
  by_memory=$((${memory_kb:-1000000} / 1000000))
  ((by_memory >= 1)) || by_memory=1
  echo $((cores < by_memory ? cores : by_memory))
}
