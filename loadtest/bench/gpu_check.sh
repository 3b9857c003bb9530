#!/usr/bin/env bash
# All that only a GPU can show, from a machine without a network; docs/gpu.md says what is measured.
#
#   loadtest/bench/gpu_check.sh prepare DIR [PYTHON_VERSION]   where there is a network: what is to be carried
#   loadtest/bench/gpu_check.sh [OUT] [DIR]                    on the machine with the GPU
#
# DIR holds, each part left out where the machine has it: onnxruntime-gpu's wheel, whole or as parts
# of one name with .00, .01, … behind it; wheels/ and card/ (the decoder and cuda-bindings); cuda/,
# CUDA's libraries where no PyTorch for CUDA 13 brings them; bin/ and lib/ with wrk; the C
# extensions; graphs of lower precision. OUT gets what each step leaves and the report,
# loadtest/bench/results the tables. Ends in under eight minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || command -v python3)}
INSTALL_S=60

# What the service, the photographs' decoders and the card need: pyproject.toml's own list.
wanted() {
  "$PYTHON" - << 'END'
import tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
extras = project["optional-dependencies"]
print(*project["dependencies"], *extras["gpu"], *extras["nvimgcodec"], sep="\n")
END
}

prepare() {
  local platforms=() glibc
  for glibc in 2_28 2_27 2_24 2_17 2_12 2_5; do
    platforms+=(--platform "manylinux_${glibc}_x86_64")
  done
  # Pip takes the newest of these two for its other names, as manylinux2010.
  platforms+=(--platform manylinux2014_x86_64 --platform manylinux1_x86_64)
  mkdir -p "$1"/{wheels,card,cuda,bin,lib}
  wanted > "$1/wanted.txt"
  # Numpy and protobuf stay that machine's, whose PyTorch and onnx are built for them.
  grep -vE '^(#|numpy==|protobuf==)' constraints.txt > "$1/constraints.txt"
  "$PYTHON" -m pip download -q --only-binary=:all: --python-version "${2:-3.12}" --implementation cp \
    "${platforms[@]}" -c "$1/constraints.txt" -r "$1/wanted.txt" -d "$1/wheels"
  # Graphs whose body computes in float16; needs the adopt extra.
  for name in fashion-fcnn cifar10-cnn; do
    "$PYTHON" -m export.convert "$(ls models/$name/*/model.onnx | tail -1)" "$1/$name.fp16.onnx"
  done
  # For the stable ABI of Python and an old glibc: they load there.
  cp models/_*.abi3.so "$1" ||
    { echo "gpu-check: expected models/_*.abi3.so, got none; run make install with a C compiler"; exit 1; }
  if command -v wrk > /dev/null; then
    cp "$(command -v wrk)" "$1/bin"
    ldd "$1/bin/wrk" | awk '/luajit/ {print $3}' | xargs -r -I{} cp {} "$1/lib"
  else
    echo "gpu-check: wrk is not installed here; where it is missing, too, no load is measured"
  fi
  cd "$1"
  rm -f wheels/{numpy,protobuf}-*.whl constraints.txt wanted.txt
  mv wheels/nvidia_{nvimgcodec,nvjpeg}*.whl wheels/cuda_*.whl card
  find wheels -name 'nvidia_*.whl' -not -name 'nvidia_ml_py-*' -exec mv {} cuda \;  # that one is bentoml's
  mv wheels/onnxruntime_gpu-*.whl .
  for wheel in onnxruntime_gpu-*.whl; do  # some ways in take 64 MiB at once
    split -b 50m -d "$wheel" "$wheel." && rm "$wheel"
  done
  du -h --apparent-size -- *
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
  [ -n "$wheel" ] || "$PYTHON" -c 'from importlib.metadata import version; version("onnxruntime-gpu")' 2>/dev/null ||
    { echo "gpu-check: expected onnxruntime-gpu installed or its wheel in $CARRIED, got neither"; exit 1; }
  # An environment above this Python's, as the child of an adoption reads no PYTHONPATH.
  "$PYTHON" -m venv --without-pip "$TARGET/venv"
  site=$("$TARGET/venv/bin/python" -c 'import site; print(site.getsitepackages()[0])')
  "$PYTHON" -c 'import site; [print(f"import site; site.addsitedir({p!r})") for p in site.getsitepackages()]' \
    > "$site/below.pth"
  wheels=($wheel $(ls "$CARRIED"/{wheels,card,cuda}/*.whl 2>/dev/null || true))
  if [ "${#wheels[@]}" -gt 0 ]; then
    timeout "$INSTALL_S" "$PYTHON" -m pip install -q --no-index --no-deps --no-compile \
      --target "$site" "${wheels[@]}" ||
      { echo "gpu-check: expected $CARRIED's wheels installed in $INSTALL_S s, got status $?"; exit 1; }
  fi
  PYTHON=$TARGET/venv/bin/python
  for built in "$CARRIED"/_*.abi3.so; do
    if [ -e "$built" ] && [ ! -e "models/${built##*/}" ]; then cp "$built" models; fi
  done
  export PATH="$PATH:$CARRIED/bin" LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$CARRIED/lib"
fi

exec "$PYTHON" -m loadtest.bench.gpu_check --out "$OUT" ${CARRIED:+--carried "$CARRIED"}
