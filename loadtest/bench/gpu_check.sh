#!/usr/bin/env bash
# All that only a GPU can show, from a machine without a network; docs/gpu.md says what is measured.
#
#   loadtest/bench/gpu_check.sh prepare DIR [PYTHON_VERSION]   where there is a network: what is to be carried
#   loadtest/bench/gpu_check.sh [OUT] [DIR]                    on the machine with the GPU
#
# DIR holds onnxruntime-gpu's wheel, whole or as parts of one name with .00, .01, … behind it, further
# wheels in wheels/, and graphs of lower precision; it may be left out where onnxruntime-gpu is installed. OUT gets what each
# step leaves, and loadtest/bench/results the tables. Ends in under eight minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || command -v python3)}
VERSION=$(sed -n 's/^onnxruntime-gpu==//p' constraints.txt)

prepare() {
  mkdir -p "$1"
  "$PYTHON" -m pip download --no-deps --only-binary=:all: --python-version "${2:-3.12}" \
    --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
    -d "$1" "onnxruntime-gpu==$VERSION"
  # What the service, the photographs' decoders and `foveal adopt` need beside a machine that has
  # PyTorch for CUDA 13, numpy, onnx, Pillow and pytest; numpy and protobuf stay that machine's.
  grep -vE '^(#|numpy==|protobuf==)' constraints.txt > "$1/constraints.txt"
  "$PYTHON" -m pip download -q --only-binary=:all: --python-version "${2:-3.12}" --implementation cp \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 \
    --platform manylinux_2_5_x86_64 --platform manylinux1_x86_64 -c "$1/constraints.txt" -d "$1/wheels" \
    bentoml httptools uvicorn uvloop orjson opentelemetry-api pydantic-settings python-multipart typer simplejpeg
  rm -f "$1"/wheels/numpy-*.whl "$1/constraints.txt"
  # Graphs whose body computes in float16; needs the adopt extra.
  for name in fashion-fcnn cifar10-cnn; do
    "$PYTHON" -m export.convert "$(ls models/$name/*/model.onnx | tail -1)" "$1/$name.fp16.onnx"
  done
  cd "$1"
  for wheel in onnxruntime_gpu-*.whl; do  # some ways in take 64 MiB at once
    split -b 50m -d "$wheel" "$wheel." && rm "$wheel"
  done
  ls -l
}

if [ "${1:-}" = prepare ]; then
  prepare "${2:?expected a folder}" "${3:-}"
  exit
fi

OUT=$(mkdir -p "${1:-gpu-check}" && cd "${1:-gpu-check}" && pwd)
CARRIED=${2:-}
exec > >(tee "$OUT/log.txt") 2>&1

if [ -n "$CARRIED" ]; then
  CARRIED=$(cd "$CARRIED" && pwd)
  TARGET=$(mktemp -d)
  for first in "$CARRIED"/onnxruntime_gpu-*.whl.00; do
    if [ -e "$first" ]; then cat "${first%.00}".?? > "$TARGET/$(basename "${first%.00}")"; fi
  done
  wheel=$(ls "$TARGET"/onnxruntime_gpu-*.whl "$CARRIED"/onnxruntime_gpu-*.whl 2>/dev/null | head -1 || true)
  [ -n "$wheel" ] || { echo "gpu-check: expected onnxruntime-gpu's wheel in $CARRIED, got none"; exit 1; }
  timeout 90 "$PYTHON" -m pip install -q --no-index --no-deps --target "$TARGET/site" "$wheel" \
    $(ls "$CARRIED"/wheels/*.whl 2>/dev/null || true)
  export PYTHONPATH="$TARGET/site${PYTHONPATH:+:$PYTHONPATH}"
fi

exec "$PYTHON" -m loadtest.bench.gpu_check --out "$OUT" ${CARRIED:+--carried "$CARRIED"}
