#!/bin/sh
# Prints the Python for the environments: $PYTHON, else the first of 3.11 to 3.14 on PATH.
set -eu

suits() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null
}

for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python3.14; do
    if suits "$candidate"; then
        exec "$candidate" -c 'import sys; print(sys.executable)'
    fi
done
echo "make: no Python from 3.11 to 3.14 on PATH. Install one, or name it: make PYTHON=/path/to/python3.12 ..." >&2
exit 1
