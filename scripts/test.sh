#!/usr/bin/env bash
# Lint, types and every test, in an environment of its own.
#
#   scripts/test.sh [--fast | --full] [arguments for pytest]
#
# --fast   nothing that starts PostgreSQL, and no swarm of the simulator
# --full   also the long scenarios, a large swarm, and every planted bug
# Arguments that are files or test names select those tests only, without lint.
set -euo pipefail

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
# shellcheck source=scripts/environment.sh
. "$ROOT/scripts/environment.sh"

RIG=tests/integration/test_chaos_rig.py
mode=default
selected=no
arguments=()
for argument in "$@"; do
    case $argument in
    --fast) mode=fast ;;
    --full) mode=full ;;
    -h | --help)
        sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    *)
        path=${argument%%::*}
        if [ "${argument#-}" = "$argument" ] && [ -e "$path" ]; then
            selected=yes
            # Relative to the caller's directory, which is left below.
            argument=$(cd -- "$(dirname -- "$path")" && pwd -P)/$(basename -- "$path")${argument#"$path"}
        fi
        arguments+=("$argument")
        ;;
    esac
done

step() {
    local name=$1 status=0
    shift
    note "$name"
    "$@" || status=$?
    if [ "$status" != 0 ]; then
        printf 'FAILED: %s (exit status %s)\n' "$name" "$status" >&2
        exit "$status"
    fi
}

# A selection by -k or -m may leave one of the two runs without a test (status 5).
run_pytest() {
    local status=0
    "$PYTHON" -m pytest "$@" ${arguments[@]+"${arguments[@]}"} || status=$?
    if [ "$status" = 5 ] && [ "${#arguments[@]}" -gt 0 ]; then status=0; fi
    return "$status"
}

# A swarm that is to find a planted bug: whoever stops finding it is broken. Another bug each day.
canary() {
    local -a bugs=(
        data_quorum_ignored half_is_a_majority record_not_synced promise_before_detached
        one_short_of_the_data_quorum messages_before_record never_rewinds vote_forgotten
    )
    local bug=${bugs[$(($(date +%s) / 86400 % ${#bugs[@]}))]} status=0
    note "planted: $bug"
    "$PYTHON" -m sim swarm --seeds 100 --mutation "$bug" --fail-fast >/dev/null || status=$?
    [ "$status" = 1 ] || fail "the planted bug $bug was not caught (exit status $status)"
}

simulate() {
    local names=()
    if [ "$mode" = full ]; then # the unit tests have played each alone, with the seeds it names
        mapfile -t names < <("$PYTHON" -m sim list --json | "$PYTHON" -c \
            'import json, sys
print(*json.load(sys.stdin)["scenarios"], sep="\n")')
        [ "${#names[@]}" -gt 1 ] || fail "no scenario is listed"
        step "simulator: every scenario by itself" "$PYTHON" -m sim swarm --no-extra-faults \
            --seeds "${#names[@]}"
    fi
    step "simulator: swarm" "$PYTHON" -m sim swarm --seeds "$1" --verify 0.05
    step "simulator: a planted bug" canary
    if [ "$mode" = full ]; then
        step "simulator: every planted bug" "$PYTHON" -m sim mutate --seeds 500
    fi
}

# Every interleaving within small bounds: five configurations, and all of them with --full.
explore() {
    local names=(elections incumbent k-raised learner pair-takeover) options=() name
    if [ "$mode" = full ]; then
        mapfile -t names < <("$PYTHON" -m sim explore --list --json | "$PYTHON" -c \
            'import json, sys
print(*json.load(sys.stdin)["configs"], sep="\n")')
        [ "${#names[@]}" -gt 4 ] || fail "no configuration is listed"
    fi
    for name in "${names[@]}"; do options+=(--config "$name"); done
    step "explorer: ${#names[@]} configurations" "$PYTHON" -m sim explore "${options[@]}"
}

cluster_tests() {
    METAKO_TEST_BINDIR=$1 run_pytest tests/integration/test_cluster.py
}

# The same faults on the other versions that metako claims to run, side by side: each of these
# clusters mostly waits. What they say is shown when they have ended.
other_versions() {
    local version status=0 directory
    local -a running=()
    directory=$(mktemp -d)
    for version in "$@"; do
        cluster_tests "embedded:$version" >"$directory/$version" 2>&1 &
        running+=($!)
    done
    for version in "$@"; do
        wait "${running[0]}" || status=$?
        running=("${running[@]:1}")
        note "PostgreSQL $version"
        cat "$directory/$version"
    done
    rm -r "$directory"
    return "$status"
}

install_project embedded,dev
if [ "$mode" != fast ]; then
    install_chaos
    install_java
fi
if [ "$mode" = full ]; then export METAKO_TEST_FULL=1; fi
cd -- "$ROOT"

if [ "$selected" = yes ]; then
    step "selected tests" run_pytest
    exit 0
fi

step "lint (ruff check)" "$PYTHON" -m ruff check .
step "format (ruff format --check)" "$PYTHON" -m ruff format --check .
step "types (mypy)" "$PYTHON" -m mypy
if [ "$mode" = fast ]; then
    step "tests without PostgreSQL" run_pytest tests --ignore=tests/integration \
        --ignore=tests/e2e -m "not integration"
    note "passed (without integration tests)"
    exit 0
fi
# On every core: the simulator's tests are half of the time, and none of these measures time.
step "unit, property, golden and driver tests" run_pytest tests --ignore=tests/integration \
    --ignore=tests/e2e -n auto
explore
if [ "$mode" = full ]; then simulate 5000; else simulate 350; fi
# Each file has a cluster of its own, which mostly waits; the rig counts processes and is alone.
last=(tests/integration)
if [ -d tests/e2e ]; then last+=(tests/e2e); fi
step "integration tests" run_pytest "${last[@]}" --ignore="$RIG" -n 2 --dist loadfile
step "fault rig" run_pytest "$RIG"
step "cluster tests on PostgreSQL 16 and 18" other_versions 16 18
note "passed"
