# Sourced by the other scripts: makes or reuses .venv with the extras in $EXTRAS.
# NOTE is what to say beside that; PYTHON chooses the interpreter (3.10 or newer);
# .venv is rebuilt only when pyproject.toml changes.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python3.10 python; do
        if command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    echo "error: Python 3.10 or newer with venv and ensurepip is needed (Debian: python3-venv); set PYTHON to its path" >&2
    return 1
}

prepare() {
    local wanted python
    wanted="$EXTRAS $(cksum <pyproject.toml)"
    if [ "$(cat ".venv/.installed-$EXTRAS" 2>/dev/null)" = "$wanted" ]; then
        echo "Using .venv"
        return
    fi
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        python=$(find_python)
        echo "Making .venv with $("$python" --version)"
        "$python" -m venv --clear .venv
    fi
    echo "Installing faceattr[$EXTRAS] into .venv${NOTE:-}"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$EXTRAS]"
    printf '%s' "$wanted" >".venv/.installed-$EXTRAS"
}

prepare
