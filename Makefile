.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# uv is used where it is installed; otherwise it is fetched into an environment of its own.
UV_VERSION := 0.13.8
# Nothing outside this folder: gigabytes of packages would stay in the home otherwise.
export UV_CACHE_DIR ?= $(CURDIR)/.uv/cache
UV := $(shell command -v uv || echo .uv/bin/uv)
# What the environment was built from; a second call finds it newer than both files and installs nothing.
STAMP := $(VENV)/.installed
# Bytecode is kept, also where the shell says otherwise: each step would compile what torch imports anew, for 12 s.
RUN := PATH="$(CURDIR)/$(BIN):$$PATH" VIRTUAL_ENV="$(CURDIR)/$(VENV)" PYTHONDONTWRITEBYTECODE=
TESTS ?= tests
IMAGES := tests/infra/test_images.py
BENCHMARKS ?= confusion_matrix data_loading startup process streets crf layer_cascade
JOBS ?= 2
# Mutants of each module that are tried.
SAMPLE ?= 60

.PHONY: help setup repro experiments camvid test test-slow test-all check docs notebooks test-avx2 test-images lint format bench mutants lock images pin-images cluster-check cluster-up test-cluster clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

setup: $(STAMP) ## build .venv from requirements.lock

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
		|| { echo "error: Python 3.11, 3.12 or 3.13 is needed; name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@command -v uv > /dev/null || test -x .uv/bin/uv \
		|| { $(PYTHON) -m venv .uv && .uv/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION); }
	$(UV) venv --quiet --allow-existing --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV)
	$(UV) pip sync --quiet --require-hashes --python $(VENV) requirements.lock
	$(UV) pip install --quiet --no-deps --no-build-isolation --python $(VENV) --editable .
	@$(RUN) python -m components.plots .dvc/tmp/plots.html
	@touch $@

repro: setup ## the main job: data, training, evaluation, registration, report
	@git rev-parse --git-dir > /dev/null 2>&1 || { echo "error: not a git checkout; DVC needs one: git init && git add . && git commit -m start" >&2; exit 1; }
	@$(RUN) dvc repro

experiments: setup ## all experiments with what differs between them
	@$(RUN) dvc exp show --only-changed --drop '^(data|outputs|reports)' --no-pager

camvid: setup ## the same job on CamVid: make camvid DATA=folder-or-archive-or-address
	@test -n "$(DATA)" || { echo "error: name the data: make camvid DATA=folder-or-archive-or-address" >&2; exit 1; }
	@$(RUN) dvc exp run --set-param dataset=camvid --set-param preset=cpu --set-param data.source="$(DATA)"

test: setup ## the tests but the slow ones: what a change needs, in ten minutes on two cores
	@# One thread a worker: the workers share the cores.
	@$(RUN) OMP_NUM_THREADS=1 python -m pytest -n $(JOBS) -m "not slow" $(TESTS)

test-slow: setup ## the slow tests: whole projects, exports of every architecture, trainings of several processes
	@$(RUN) OMP_NUM_THREADS=1 python -m pytest -n $(JOBS) -m "slow and not images" $(TESTS)

test-all: test test-slow ## all tests but those of the images and of a cluster

check: lint ## lint, and the tests that the change since the last commit touches
	@touched="$$($(RUN) python -m tests.touched)"; if [ -n "$$touched" ]; \
		then $(RUN) OMP_NUM_THREADS=1 python -m pytest -n $(JOBS) $$touched; else echo "no test is touched"; fi

test-avx2: setup ## the tests of the networks as on a processor without AVX-512
	@# Exports are computed by other libraries, and held against torch by `make test`.
	@$(RUN) ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 OMP_NUM_THREADS=1 python -m pytest -n $(JOBS) \
		--ignore=tests/segmodels/models/test_every_export.py tests/segmodels/models

test-images: setup ## build the container images and run the pipeline in them (docker or podman; minutes and 10 GB)
	@$(RUN) OMP_NUM_THREADS=$(JOBS) python -m pytest $(IMAGES)

test-cluster: setup ## the tests that need a Kubernetes, which KUBECONFIG names; it should hold nothing else
	@test -n "$(KUBECONFIG)" || { echo "error: KUBECONFIG names no cluster; make cluster-up makes one with kind" >&2; exit 1; }
	@$(RUN) SEGMODELS_CLUSTER="$(KUBECONFIG)" python -m pytest -n 0 -v tests/cluster

cluster-up: ## a cluster for tests with kind: the images are built and loaded
	mkdir -p .cache
	kind create cluster --name segmodels-test --kubeconfig .cache/kubeconfig
	infra/images/build gpu mlflow
	kind load docker-image --name segmodels-test segmodels:0.1.0 segmodels-mlflow:0.1.0
	@echo "KUBECONFIG=$(CURDIR)/.cache/kubeconfig make test-cluster"

lint: setup ## ruff, mypy, import rules
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) mypy
	@$(RUN) mypy benchmarks infra tests
	@$(RUN) lint-imports

format: setup ## put the code into shape
	@$(RUN) ruff check --fix .
	@$(RUN) ruff format .

docs: setup ## the documentation as a site: site/index.html
	@$(RUN) python -m components.settings_page
	@$(RUN) NO_MKDOCS_2_WARNING=1 python -m mkdocs build --strict --quiet --site-dir site

notebooks: setup ## run the notebooks under docs/notebooks, and keep what they show
	@$(RUN) python -m jupyter execute --inplace docs/notebooks/*.ipynb

bench: setup ## the short benchmarks, each with its peer; BENCHMARKS="serving overhead peers …" for others
	@for name in $(BENCHMARKS); do echo "== $$name"; $(RUN) python benchmarks/$$name.py; done

mutants: setup ## which small bugs the tests do not notice; MODULE="segmodels/tasks/semantic/metrics.py …", SAMPLE=0 for every mutant
	@$(RUN) python benchmarks/mutants.py --survivors --sample $(SAMPLE) $(MODULE)

lock: ## resolve requirements.lock anew
	$(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --all-extras \
		--quiet pyproject.toml --output-file requirements.lock

images: ## the container images, with docker, podman or buildah (REGISTRY=… PUSH=1 pushes them)
	@infra/images/build

pin-images: setup ## write the digests of all images into infra/
	@$(RUN) python infra/images/pin.py

cluster-check: setup ## render the Kubernetes manifests, validate them strictly and hold them to the policy
	@$(RUN) python -m infra.k8s.check

clean: ## remove what the commands above made, the environment too
	rm -rf $(VENV) .uv .cache data outputs reports mlflow.db mlartifacts *.egg-info .pytest_cache .ruff_cache .mypy_cache
