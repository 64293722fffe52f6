#!/usr/bin/env bash
# A three-node cluster on this machine, to break and to watch: see `scripts/demo.sh --help`.
set -euo pipefail

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
# shellcheck source=scripts/environment.sh
. "$ROOT/scripts/environment.sh"
install_project embedded

exec "$PYTHON" -m metako demo "$@"
