#!/usr/bin/env bash
# Build the image from this checkout. `make image` calls it; all of it can be set in the environment:
#   IMAGE    name of the image                                          foveal:latest
#   ENGINE   podman or docker                                           the first that is here
#   BASE     the image with pip that packages are installed in          docker.io/library/python:3.11-slim
#   COMPILER the image with a C compiler and Python's headers           BASE if that is set, else docker.io/library/python:3.11
#   RUNTIME  the image that the service runs in: the same Python        BASE
#   EXTRA    cpu, or gpu (CUDA's libraries from PyPI; x86-64)           cpu
#   PIP_CONF a pip.conf, CA a certificate bundle: what pip needs to reach an index from here; used as
#            secrets of one step, in no layer
#   OPTIONS  more words for the engine's build
set -euo pipefail
cd "$(dirname "$0")/../.."
IMAGE=${IMAGE:-foveal:latest}
ENGINE=${ENGINE:-$(command -v podman || command -v docker || true)}
if [ -z "$ENGINE" ]; then
  echo "make image: expected podman or docker, got neither; install one or set ENGINE" >&2
  exit 1
fi

revision=unknown created=unknown
if git rev-parse --git-dir >/dev/null 2>&1; then
  revision=$(git rev-parse HEAD)
  created=$(git log -1 --format=%cI)
  [ -z "$(git status --porcelain)" ] || revision+=-dirty
fi
words=(build --file deploy/container/Containerfile --tag "$IMAGE"
  --build-arg "EXTRA=${EXTRA:-cpu}"
  --label org.opencontainers.image.title=foveal
  --label org.opencontainers.image.licenses=Apache-2.0
  --label "org.opencontainers.image.version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)"
  --label "org.opencontainers.image.revision=$revision"
  --label "org.opencontainers.image.created=$created")
# model.json carries the digests of the model's other files: its own stands for all of them.
for file in models/*/*/model.json; do
  version=$(dirname "$file")
  words+=(--label "foveal.model.$(basename "$(dirname "$version")").$(basename "$version")=sha256:$(sha256sum "$file" | cut -d' ' -f1)")
done
[ -z "${BASE:-}" ] || words+=(--build-arg "BASE=$BASE")
COMPILER=${COMPILER:-${BASE:-}}
[ -z "$COMPILER" ] || words+=(--build-arg "COMPILER=$COMPILER")
[ -z "${RUNTIME:-}" ] || words+=(--build-arg "RUNTIME=$RUNTIME")
[ -z "${PIP_CONF:-}" ] || words+=(--secret "id=pip.conf,src=$PIP_CONF")
[ -z "${CA:-}" ] || words+=(--secret "id=ca.crt,src=$CA")
# Podman's own format has no health check. All times are 1970's, so that equal files are equal layers
# and a release that needs no other packages costs nobody their download.
case $(basename "$ENGINE") in
podman | buildah) words+=(--format docker --timestamp 0) ;;
*) export SOURCE_DATE_EPOCH=0 ;;
esac
# shellcheck disable=SC2086  # OPTIONS is a list of words
"$ENGINE" "${words[@]}" ${OPTIONS:-} .
"$ENGINE" image inspect "$IMAGE" --format "$IMAGE: {{.Size}} bytes, {{.Id}}"
