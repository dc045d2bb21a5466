#!/usr/bin/env bash
# Regenerates phys4d/reward/v1 from the proto files. With --check, fails if the stubs differ, buf lint complains, or
# the contract breaks with baseline.binpb; with --baseline, makes the contract of today that baseline.
# Stubs of grpcio-tools 1.71 load with protobuf 5.29, 6 and 7. It needs protobuf 5 itself, hence an environment
# of its own, made on the first run.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
venv=${PROTO_VENV:-$root/.venv-protos}
python=${PYTHON:-python3}

if [ ! -x "$venv/bin/buf" ]; then
  "$python" -m venv "$venv"
  "$venv/bin/pip" install --quiet "grpcio-tools==1.71.0" "googleapis-common-protos==1.75.0" "buf-bin==1.75.0"
fi
google=$("$venv/bin/python" -c "import google.rpc, pathlib; print(pathlib.Path(google.rpc.__path__[0]).parents[1])")
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

cd "$root/protos"
"$venv/bin/python" -m grpc_tools.protoc -I . -I "$google" \
  --python_out="$out" --pyi_out="$out" --grpc_python_out="$out" phys4d/reward/v1/*.proto

describe() {
  "$venv/bin/python" -m grpc_tools.protoc -I . -I "$google" --include_imports "${@:2}" \
    --descriptor_set_out="$1" phys4d/reward/v1/*.proto
}

if [ "${1:-}" = "--baseline" ]; then
  describe baseline.binpb
  exit
elif [ "${1:-}" = "--check" ]; then
  describe "$out/image.binpb" --include_source_info
  "$venv/bin/buf" lint "$out/image.binpb" --config buf.yaml
  if ! "$venv/bin/buf" breaking "$out/image.binpb" --against baseline.binpb --config buf.yaml; then
    echo "error: protos/ breaks clients of phys4d.reward.v1; add fields instead, or begin phys4d.reward.v2" >&2
    exit 1
  fi
  if ! diff -r -x __init__.py -x __pycache__ "$root/phys4d/reward/v1" "$out/phys4d/reward/v1"; then
    echo "error: phys4d/reward/v1 is not what protos/ generates; run make protos and commit the result" >&2
    exit 1
  fi
  echo "phys4d/reward/v1 matches protos/"
else
  cp "$out"/phys4d/reward/v1/* "$root/phys4d/reward/v1/"
fi
