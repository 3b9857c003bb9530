# One command per task; CI calls the same. Everything is installed in .venv of the checkout.
PYTHON ?= python3
PORT ?= 3000
GRPC_PORT ?= 8001
IMAGE ?= foveal:latest
ENGINE ?= $(shell command -v podman || command -v docker)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# Without bytecode each of the tests' hundreds of processes compiles the sources again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install serve test test-slow check format clean train-demo train-table bench gpu-check gpu-rehearsal \
  bento image run-image base-image docs tree fuzz pixels adopt-table check-proof \
  tuning-proof soak audit screenshots install-all

help:                ## list the commands
	@grep -hE '^[a-z-]+: .*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: expected Python 3.11 or newer, got $$($(PYTHON) --version); set PYTHON=" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# One stamp per environment: serving only, and everything that tests and training need on top.
# The C extension is built where a compiler is (models/resample.py).
$(VENV)/.serve: $(BIN)/python pyproject.toml constraints.txt models/_resample.c
	@echo "make: installing what serves into $(VENV); half a minute or more without a word"
	$(PIP) -e '.[cpu]'
	@touch $@

# What users' environments hold beside torch, for tests of adoption from PyTorch. Not in this
# environment: torchmetrics imports torchvision, whose operators do not load with every build of torch.
$(VENV)/.user: $(BIN)/python constraints.txt
	$(PIP) --no-deps --upgrade --target $(VENV)/user torchvision timm transformers huggingface_hub \
	  regex safetensors tokenizers httpx2 httpcore2 truststore
	@touch $@

$(VENV)/.all: $(VENV)/.serve $(VENV)/.user
	@echo "make: installing all extras into $(VENV); some minutes without a word"
	$(PIP) -e '.[cpu,grpc,train,score,remote,ray,loadtest,dev]'
	@touch $@

install: $(VENV)/.serve   ## the serving environment (no torch); install-train, install-loadtest … add an extra

# What a message asks for where an extra is missing (models/installation.py).
install-%: $(VENV)/.serve
	@echo "make: installing the extra $* and what it needs; half a minute or more without a word"
	$(PIP) -e '.[cpu,$*]'

install-all: $(VENV)/.all  ## all extras, what the tests need, too

serve: install       ## serve the shipped models on PORT (3000), gRPC on GRPC_PORT (8001) with its extra
	$(if $(filter file,$(origin GRPC_PORT)),,FOVEAL_GRPC_PORT=$(GRPC_PORT)) $(BIN)/foveal serve --port $(PORT)

TESTS ?= tests
JOBS ?= 3
THOROUGH ?=
test: $(VENV)/.all   ## the tests of TESTS (tests), JOBS files at a time (3); THOROUGH=1: more cases of each kind
	$(BIN)/python -m pytest -m "not slow $(if $(THOROUGH),,and not thorough)" -n $(JOBS) --dist loadfile $(TESTS)

test-slow: $(VENV)/.all  ## the slow tests of TESTS: minutes, and gigabytes
	$(BIN)/python -m pytest -m slow $(TESTS)

check: $(VENV)/.all  ## check format, lint and types, of the tests too
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.all ## rewrite files to the format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

train-demo: $(VENV)/.all  ## train, export and publish a digits network: under a minute
	$(BIN)/foveal train --dataset digits --network cnn --run runs/demo
	$(BIN)/foveal export runs/demo --name digits-cnn

bento: install       ## build the Bento foveal:latest in BentoML's store
	BENTOML_DO_NOT_TRACK=True $(BIN)/bentoml build

image:               ## build the container image IMAGE (foveal:latest) with podman or docker
	IMAGE=$(IMAGE) ENGINE=$(ENGINE) deploy/container/build.sh

run-image:           ## run IMAGE, locked down, on PORT (3000) and GRPC_PORT (8001)
	$(ENGINE) run --rm --read-only --tmpfs /tmp --cap-drop all --security-opt no-new-privileges \
	  --memory 512m --publish $(PORT):3000 --publish $(GRPC_PORT):8001 $(IMAGE)

base-image:          ## make base images from Debian packages, without a registry
	ENGINE=$(ENGINE) deploy/container/base-image.sh

bench: $(VENV)/.all   ## compare with other servers and measure each stage; needs wrk and taskset
	$(BIN)/foveal bench peers --cases fcnn,cnn,photo
	$(BIN)/foveal bench v2
	$(BIN)/foveal bench stages
	$(BIN)/foveal bench overload
	$(BIN)/foveal bench endurance
	$(BIN)/foveal bench start
	$(BIN)/foveal bench record

GPU_OUT ?= gpu-check
GPU_DIR ?=
gpu-check:           ## measure all that needs a GPU, in under eight minutes; logs in GPU_OUT, inputs from GPU_DIR
	loadtest/bench/gpu_check.sh $(GPU_OUT) $(GPU_DIR)

gpu-rehearsal: $(VENV)/.all  ## run every step of gpu-check on the CPU, with small inputs
	$(BIN)/python -m loadtest.bench.gpu_check --rehearse --out gpu-rehearsal

CIFAR10 ?= data/cifar10
train-table: $(VENV)/.all  ## train every network on every dataset (hours) into training/README.md
	$(BIN)/python -m training.report.table --data-dir cifar10=$(CIFAR10) --into training/README.md

screenshots: $(VENV)/.all  ## make the pictures of the page and the reports in docs/; needs chromium
	$(BIN)/python -m docs.screenshots

pixels: $(VENV)/.all $(VENV)/.user  ## write models/pixels.md: 310 photographs as libraries see them (half an hour)
	$(BIN)/python -m tests.models.pixels_table --into models/pixels.md

check-proof: $(VENV)/.all  ## write training/quality/proof.md: planted wrong labels that `foveal check` finds (minutes)
	$(BIN)/python -m tests.training.quality.proof --into training/quality/proof.md

tuning-proof: $(VENV)/.all  ## write training/tuning.md: fine-tuned on 20 images a class against from scratch (minutes)
	$(BIN)/python -m tests.training.tuning_proof --data-dir $(CIFAR10) --into training/tuning.md

adopt-table: $(VENV)/.all $(VENV)/.user  ## write tests/adoption/table.md: 40 networks with their transforms, from PyTorch to HTTP (half an hour)
	$(BIN)/python -m tests.adoption.table --into tests/adoption/table.md

replay-proof: $(VENV)/.all  ## write scoring/replay.md: 100,000 recorded requests, asked again (minutes)
	$(BIN)/python -m tests.scoring.replay_proof --into scoring/replay.md

FUZZ ?= 1000000
REQUESTS ?= 400000
fuzz: $(VENV)/.all   ## write tests/hostile/fuzz.md: FUZZ mutated images a format, REQUESTS requests a kind (an hour)
	$(BIN)/python -m pip download --quiet --no-deps --no-binary :all: --dest .fuzz pillow imageio
	for archive in .fuzz/*.tar.gz; do tar -xzf $$archive -C .fuzz; done
	-$(BIN)/python -m tests.hostile.fuzz_images --count $(FUZZ) --seeds .fuzz --json .fuzz/images.json
	-$(BIN)/python -m tests.hostile.fuzz_requests --count $(REQUESTS) --json .fuzz/requests.json
	$(BIN)/python -m tests.hostile.fuzz_report .fuzz/images.json .fuzz/requests.json --into tests/hostile/fuzz.md

MINUTES ?= 30
soak: $(VENV)/.all   ## load two workers with good, bad and leaving clients for MINUTES (30)
	$(BIN)/python -m tests.hostile.soak --minutes $(MINUTES) --out tests/hostile

# In an environment of its own: neither tool is a part of the service.
audit:               ## write sbom.json of the image's packages, and look for known vulnerabilities
	$(PYTHON) -m venv .audit
	.audit/bin/python -m pip install --quiet --disable-pip-version-check cyclonedx-bom pip-audit
	.audit/bin/cyclonedx-py requirements deploy/requirements.txt --output-file sbom.json
	.audit/bin/pip-audit --requirement deploy/requirements.txt --no-deps --disable-pip

docs: install        ## write the parts of docs/reference/ that come from the code
	$(BIN)/python -m docs.generate

tree: docs

clean:               ## remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build *.egg-info models/_resample*.so
