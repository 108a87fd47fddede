#!/usr/bin/env bash
# Regenerates the protobuf code beside every .proto file. Needs `make tools`.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$1 py=$2
find . -name '*.proto' -not -path './.tools/*' | sort | while read -r f; do
  PYTHONPATH=$py PATH=$bin:$PATH python3 -m grpc_tools.protoc -I. \
    --go_out=. --go_opt=module=keybridge --go-grpc_out=. --go-grpc_opt=module=keybridge "${f#./}"
done
