PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check
PINNED = $(shell grep == constraints.txt)
LARGE = nvidia-% torch==% torchvision==% triton==%
BROWSER = greenlet==% playwright==%

.PHONY: install demo test gpu-test chaos browser-test tracking-test compose-test dist-test lint docs pictures bench bench-storage bench-gpu clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hpo needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": call make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	@# A pip uses one core, and half of the bytes are torch and the libraries of GPUs, so two of them fetch and unpack at
	@# once. What they cannot, as these libraries are not for every machine, the third one does, which knows what is needed.
	@$(PIP) --no-compile --no-deps $(filter $(LARGE),$(PINNED)) 2>/dev/null & \
	    $(PIP) --no-compile --no-deps $(filter-out $(LARGE) $(BROWSER),$(PINNED)) 2>/dev/null & wait
	$(PIP) --no-compile --constraint constraints.txt --editable '.[dev]'
	@# pip compiles one file after the other, also what is hardly imported; some files are not meant for this Python
	@$(BIN)/python -m compileall -qq -j 0 -x '/(tests?|fontTools|moto|mypyc?|pip)/' $(VENV)/lib || true
	@touch $@

demo: install
	$(BIN)/hpo demo demo

# Three processes for two cores, as the tests that take longest mostly wait. Their threads do so asleep: torch's would
# otherwise wait for each other in loops, which on a busy machine takes up to fifty times the work.
test: install
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/pytest --numprocesses 3 --dist loadscope

# Does it work on this machine's GPU? Where there is none: make gpu-test HPO_GPU_TESTS=rehearse
gpu-test: install
	$(BIN)/pytest tests/gpu/test_memory.py -W default  # which fills the GPU's memory, and so has it to itself
	$(BIN)/pytest tests/gpu --ignore tests/gpu/test_memory.py -W default --numprocesses 6 --dist loadscope

# The dashboard in Chromium (apt-get install chromium): make browser-test SCREENSHOTS=folder
browser-test: install
	$(PIP) --constraint constraints.txt --editable '.[browser]'
	SCREENSHOTS=$(SCREENSHOTS) $(BIN)/pytest tests/browser

# `[study] track` with a real MLflow server and the offline mode of Weights & Biases, in an environment of its own: 3 minutes
tracking-test: install
	$(PYTHON) -m venv build/tracking
	build/tracking/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,tracking]'
	build/tracking/bin/python -m pytest tests/tracking

# A search of 110 trials under all faults at random moments, a quarter of an hour: make chaos CHAOS='--seed 1 --trials 20'
chaos: install
	$(BIN)/python -m tests.support.chaos $(CHAOS)

# The image and the compose files, with the docker engine of this machine: 5 to 15 minutes
compose-test:
	$(PYTHON) -m tests.support.compose

# What would be published, sdist and wheel, and the demo from the wheel in an environment that has nothing else: 5 minutes
dist-test: install
	rm -rf dist build
	$(BIN)/python -m build --outdir dist
	$(PYTHON) -m venv build/venv
	build/venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt dist/*.whl
	cd build && venv/bin/hpo demo demo

# Without the files of kustomize and of operators, whose schemas are not Kubernetes' own; compose files without their tags
MANIFESTS = $(shell find deploy/kubernetes -name '*.yaml' ! -name kustomization.yaml ! -name cluster.yaml)
lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/kubernetes-validate --strict --quiet --kubernetes-version 1.29 --kubernetes-version 1.37 $(MANIFESTS)
	for file in docker-compose.yml deploy/compose/*.yml; do echo "$$file" && sed -E 's/!(reset|override)//' "$$file" | \
	    $(BIN)/check-jsonschema --builtin-schema vendor.compose-spec --default-filetype yaml - || exit 1; done
	bash -n deploy/slurm/hpo.sbatch

docs: install
	$(BIN)/python docs/generate.py

# The pictures of the README, from a real search, in Chromium: some minutes
pictures: install
	$(PIP) --constraint constraints.txt --editable '.[browser]'
	$(BIN)/python -m docs.pictures

# Images a second against the bare model and timm: make bench DATA=folder-with-one-folder-a-class
bench: install
	$(BIN)/python benchmarks/throughput.py $(DATA) --side-by-side $(shell nproc)
	$(BIN)/python benchmarks/memory.py

# What the service costs a trial, against plain Optuna; and 1 to 64 workers on one study
bench-storage: install
	$(BIN)/python benchmarks/storage_scale.py
	$(BIN)/python benchmarks/storage_scale.py --workers 1 4 16 64

# All about a GPU in at most 6 minutes, each part as it is known: make bench-gpu BENCH='--only resnet50 --output FILE'
bench-gpu: install
	$(BIN)/python benchmarks/gpu.py $(DATA) $(BENCH)

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info
