#!/usr/bin/env bash
# All that only a GPU can show, from a machine without a network: the tests marked gpu, then the bench.
#
#   loadtest/bench/gpu_check.sh prepare DIR [PYTHON_VERSION]   where there is a network: what is to be carried
#   loadtest/bench/gpu_check.sh [OUT] [DIR]                    on the machine with the GPU
#
# DIR holds onnxruntime-gpu's wheel, whole or as parts of one name with .00, .01, … behind it, and
# graphs of lower precision; it may be left out where onnxruntime-gpu is installed. OUT gets JSON,
# the tests' report and a log. Ends in under eight minutes: each step has its own limit.
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || command -v python3)}
VERSION=$(sed -n 's/^onnxruntime-gpu==//p' constraints.txt)

prepare() {
  mkdir -p "$1"
  "$PYTHON" -m pip download --no-deps --only-binary=:all: --python-version "${2:-3.12}" \
    --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
    -d "$1" "onnxruntime-gpu==$VERSION"
  # Graphs whose body computes in float16; needs the train extra.
  "$PYTHON" - "$1" <<'PYTHON'
import sys
from pathlib import Path

import onnx

from export.precision import convert
from models.repository import ModelRepository

repository = ModelRepository(Path("models"))
for name in ("fashion-fcnn", "cifar10-cnn"):
    model = onnx.load(repository.path(*repository.resolve(name)) / "model.onnx")
    onnx.save(convert(model, "fp16", train_NHWC=None), Path(sys.argv[1]) / f"{name}.fp16.onnx")
PYTHON
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
  timeout 60 "$PYTHON" -m pip install -q --no-index --no-deps --target "$TARGET/site" "$wheel"
  export PYTHONPATH="$TARGET/site${PYTHONPATH:+:$PYTHONPATH}"
fi

echo "== device"
timeout 60 "$PYTHON" - <<'PYTHON'
import logging, sys
import onnxruntime
from service.errors import InferenceError
from service.session.devices import select_device, runtime
logging.basicConfig(level=logging.INFO)
print("onnxruntime", onnxruntime.__version__, onnxruntime.__file__)
try:
    print(runtime().facts(select_device("cuda").index))
except InferenceError as error:
    sys.exit(f"gpu-check: {error.message}")
PYTHON

# The project's own settings of pytest name plugins that may not be here.
echo "== tests"
set +e
timeout 170 "$PYTHON" -m pytest tests/gpu -q -ra -c /dev/null --rootdir . --confcutdir tests/gpu \
  --import-mode importlib -o "markers=gpu: needs a GPU" -p no:cacheprovider \
  --junit-xml "$OUT/tests.xml"
tests=$?
echo "== bench"
timeout 230 "$PYTHON" -m loadtest.bench.device --out "$OUT" ${CARRIED:+--lower "$CARRIED"} > /dev/null
bench=$?
echo "tests ended with $tests, bench with $bench; $OUT has tests.xml, session_cuda.json, log.txt"
exit $((tests || bench))
