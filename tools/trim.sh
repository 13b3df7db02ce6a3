#!/bin/sh
# Delete from an installed environment what no run of mapsto reads: tests, C++ headers and programs of torch, pip. About 300 MB.
# Usage: tools/trim.sh FOLDER_OF_THE_VIRTUAL_ENVIRONMENT (the Dockerfile does; tests/test_packaging.py measures what is left)
set -eu
packages=$(echo "$1"/lib/python3*/site-packages)
test -d "$packages/mapsto" || { echo "$1 is no environment with mapsto in it" >&2; exit 1; }
rm -rf "$packages/torch/include" "$packages/torch/test" "$packages"/pip "$packages"/pip-*.dist-info \
    "$packages"/setuptools "$packages"/setuptools-*.dist-info "$packages/pyarrow/include"
# torch starts torch_shm_manager where processes share tensors; the others are its tests and protoc.
find "$packages/torch/bin" -type f ! -name torch_shm_manager -delete
find "$packages" -type d -name tests -prune -exec rm -rf {} +
rm -f "$1"/bin/pip*
