#!/usr/bin/env bash
# Make the virtual environment .venv with all that megalm needs; what is done already is not done again, and after an
# interruption the same command goes on.
#   tools/setup.sh run     what a training run needs
#   tools/setup.sh test    also what the tests need
# PYTHON: the interpreter (3.11 or newer; python3). TORCH_INDEX: URL of a package index, for torch only.
set -u
cd "$(dirname "$0")/.." || exit 2

purpose=${1:-run}
python=${PYTHON:-python3}
torch_index=${TORCH_INDEX:-}
venv=.venv
log=$venv/setup.log
programs_log=$venv/programs.log

refuse() {
    echo "megalm set-up: $1" >&2
    exit 2
}

digest() {
    cat constraints.txt setup.py tools/setup.sh | cksum | tr ' ' '-'
}

# Run a command quietly; when it fails, tell the last error that it gave in one sentence.
quietly() {
    local what=$1
    shift
    echo "megalm set-up: $what"
    if ! "$@" >>"$log" 2>&1; then
        local error
        error=$(grep -aiE 'error|no space left' "$log" | tail -n 1 | tr -s ' ' | cut -c 1-300)
        refuse "$what did not succeed (${error:-no message}); $log has the details, and the same command goes on from here."
    fi
}

pip_install() {
    "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --constraint constraints.txt "$@"
}

# A package whose installation was cut off has no INSTALLER file, which pip writes near the end; without this pip would
# take it for whole.
forget_torn_packages() {
    local record
    for record in "$venv"/lib/python*/site-packages/*.dist-info; do
        if [ -d "$record" ] && [ ! -f "$record/INSTALLER" ]; then rm -rf "$record"; fi
    done
}

check_machine() {
    command -v "$python" >/dev/null ||
        refuse "there is no '$python'; install Python 3.11 or newer, or name one with PYTHON=/path/to/python."
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        refuse "$("$python" --version 2>&1) is too old; install Python 3.11 or newer, or name one with PYTHON=/path/to/python."
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        refuse "$python cannot make virtual environments, for it lacks venv or ensurepip; install them (Debian and Ubuntu: apt-get install python3-venv) and run the same command again."
    command -v "${CXX:-g++}" >/dev/null ||
        refuse "there is no C++ compiler '${CXX:-g++}'; install one (Debian and Ubuntu: apt-get install g++), or name one with CXX=/path/to/compiler, and run the same command again."
    if [ ! -f "$venv/.torch" ]; then
        local needed_mib=3000 free_mib
        if nvidia-smi -L >/dev/null 2>&1; then needed_mib=12000; fi # the CUDA build of torch brings its libraries
        free_mib=$(df -Pm . | awk 'NR == 2 { print $4 }')
        [ "$free_mib" -ge "$needed_mib" ] ||
            refuse "it needs about $needed_mib MiB of disk here and $free_mib MiB are free; free some space and run the same command again."
    fi
}

make_environment() {
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        rm -f "$venv"/.torch "$venv"/.run "$venv"/.test
        { mkdir -p "$venv" && : >"$log"; } 2>/dev/null ||
            refuse "cannot write to $(pwd)/$venv; give yourself the permission, or work in a folder of your own."
        quietly "virtual environment in $venv" "$python" -m venv "$venv"
    fi
}

install_torch() {
    local pin stamp
    pin=$(grep '^torch==' constraints.txt)
    stamp="$pin $torch_index"
    if [ "$(cat "$venv/.torch" 2>/dev/null)" != "$stamp" ]; then
        if [ -n "$torch_index" ]; then
            quietly "$pin from $torch_index" pip_install --force-reinstall --no-deps --index-url "$torch_index" "$pin"
        fi
        quietly "$pin with what it needs" pip_install "$pin"
        echo "$stamp" >"$venv/.torch"
    fi
}

install_for_run() {
    if [ "$(cat "$venv/.run" 2>/dev/null)" != "$(digest)" ]; then
        quietly "setuptools" pip_install setuptools
        quietly "megalm" pip_install --no-build-isolation --editable .
        digest >"$venv/.run"
    fi
}

install_for_test() {
    if [ "$(cat "$venv/.test" 2>/dev/null)" != "$(digest)" ]; then
        quietly "what DeepSpeed is built with" pip_install wheel ninja packaging
        # Without its own kernels: with them DeepSpeed would be compiled for minutes, and nothing here calls them.
        DS_BUILD_OPS=0 DS_ACCELERATOR=cpu quietly "what the tests need" \
            pip_install --no-build-isolation --editable '.[dev,tensorboard,wandb,deepspeed,fairscale,mpi]'
        # Only its indexed-dataset files are read, as the oracle of ours; none of its own requirements are needed.
        quietly "megatron-core, an oracle of the tests" pip_install --no-deps megatron-core
        digest >"$venv/.test"
    fi
}

# The tests of launchers run on real programs over hosts of their own, and containers on podman behind Docker's client;
# where these cannot be had, they are left out and say so.
install_cluster_programs() {
    local lacking=no program
    for program in slurmctld slurmd sbatch munged ip sshd ssh mpirun.openmpi \
        podman netavark aardvark-dns crun iptables mmdebstrap docker-compose; do
        PATH=$PATH:/usr/sbin:/sbin:/usr/lib/podman command -v "$program" >/dev/null || lacking=yes
    done
    if [ $lacking = yes ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "megalm set-up: Slurm, ssh, Open MPI and podman, for the tests of launchers"
        { apt_install || { apt-get update && apt_install; }; } >>"$programs_log" 2>&1 ||
            echo "megalm set-up: Slurm, ssh, Open MPI and podman could not be installed, so tests/cluster leaves out what needs them; see $programs_log."
    fi
}

apt_install() {
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        slurmctld slurmd slurm-client munge iproute2 openssh-server openssh-client openmpi-bin \
        podman netavark aardvark-dns crun iptables mmdebstrap docker-compose
}

# What the tests build an image from, since they ask no registry: a bare Debian, and the packages of a run.
builds_images() {
    local program
    for program in mmdebstrap podman docker docker-compose; do
        command -v "$program" >/dev/null || return
    done
    [ "$(id -u)" = 0 ] && mkdir -p "$venv/containers"
}

collect_bare_debian() {
    local tar=$venv/containers/debian.tar
    if builds_images && [ ! -f "$tar" ]; then
        echo "megalm set-up: a bare Debian, for the tests of images"
        bare_debian "$tar" >>"$programs_log" 2>&1 ||
            echo "megalm set-up: it could not be had, so tests/cluster builds no image; see $programs_log."
    fi
}

collect_packages_of_a_run() {
    local parts=$venv/containers stamp
    if ! builds_images; then return; fi
    stamp="$(digest) $("$venv/bin/python" -c 'import torch; print(torch.__version__)')"
    if [ "$(cat "$parts/.wheels" 2>/dev/null)" != "$stamp" ]; then
        echo "megalm set-up: packages, for the tests of images"
        if packages_of_a_run "$parts/wheels" >>"$log" 2>&1; then
            echo "$stamp" >"$parts/.wheels"
        else
            rm -rf "$parts/wheels" "$parts/.wheels"
            echo "megalm set-up: they could not be had, so tests/cluster builds no image; see $log."
        fi
    fi
}

bare_debian() {
    mmdebstrap --format=tar --variant=minbase --include=ca-certificates --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/doc/*' bookworm "$1.new" &&
        mv "$1.new" "$1"
}

# For the Python of that Debian, and the very torch of this environment, unless it is a CUDA build: that is too large.
packages_of_a_run() {
    local needed
    needed=$("$venv/bin/python" -c '
import importlib.metadata, torch
assert torch.version.cuda is None
needed = [line for line in importlib.metadata.requires("megalm") if "extra" not in line and "torch" not in line]
print(f"torch=={torch.__version__}", "setuptools", *needed, sep="\n")') || return
    rm -rf "$1"
    mapfile -t needed <<<"$needed"
    pip_download --python-version 3.11 --only-binary=:all: --dest "$1" \
        ${torch_index:+--extra-index-url "$torch_index"} "${needed[@]}"
}

pip_download() {
    "$venv/bin/python" -m pip download --disable-pip-version-check --no-input --constraint constraints.txt "$@"
}

case $purpose in run | test) ;; *) refuse "'$purpose' is not known; say run or test." ;; esac
check_machine
make_environment
if [ "$purpose" = test ]; then
    # They ask nothing of the environment, so they come beside its packages; apt is never cut off half way.
    { install_cluster_programs; collect_bare_debian; } &
    trap wait EXIT
fi
forget_torn_packages
install_torch
install_for_run
if [ "$purpose" = test ]; then
    install_for_test
    wait
    collect_packages_of_a_run
fi
echo "megalm is ready; to use it in this shell: source $venv/bin/activate"
