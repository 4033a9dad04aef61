# `make run` and `make test` do everything on a fresh machine: virtual environment, installation,
# then the work. uv is used if it is there, pip otherwise.

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
UV := $(shell command -v uv 2>/dev/null)

# A file of tests stays in one process, which shares its fixtures. Files go out in the order of their folders: by number of
# tests, as xdist would, the longest single tests come last and one process waits for the other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder

# Methods of the leaderboard that changes of this project are compared with. None is tuned, so that the numbers of passes
# are the same on every machine.
GUARDED := SoftMax+MSP,SoftMax+ODIN (fixed),SoftMax+KNN,SoftMax+MDS,SoftMax+Residual,SoftMax+ViM,SoftMax+Gram
GUARDED := $(GUARDED),DisMax+Entropy,DisMax+KNN
BOARD := docs/leaderboards/digits

.PHONY: run test test-full lint gate leaderboard docs detectors-page schemas format bench release-check clean

run: $(INSTALLED)        ## the main job: train, score, measure, print both leaderboards
	$(BIN)/oodbench run $(ARGS)

test: $(INSTALLED)       ## the test suite, a process for each core
	$(PYTEST) $(ARGS)

test-full: $(INSTALLED)  ## the tests of `make test`, and the exhaustive ones (marker `full`)
	$(PYTEST) -m "" $(ARGS)

lint: $(INSTALLED)       ## ruff, mypy --strict, the layers of the package, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/codespell

# Exit code 3 of `verify`: nothing is wrong, but this version writes a report of the board in another form.
gate: $(INSTALLED)       ## the committed leaderboards verified, and a short run compared with one
	rm -rf runs/gate
	$(BIN)/oodbench run digits --methods "$(GUARDED)" --out runs/gate
	$(BIN)/oodbench verify runs/gate
	for board in docs/leaderboards/*/; do $(BIN)/oodbench verify $$board || test $$? -eq 3 || exit 1; done
	$(BIN)/oodbench compare $(BOARD) runs/gate --gate .ci/gate.toml

leaderboard: $(INSTALLED) ## make the committed leaderboard again, from a clean checkout
	rm -rf runs/board
	$(BIN)/oodbench run digits --methods "$(GUARDED)" --out runs/board
	cd runs/board && rm cost.* quality.* summary.json leaderboard.csv leaderboard.json  # `oodbench report` makes them
	rm -rf $(BOARD)
	mv runs/board $(BOARD)

docs: $(INSTALLED)       ## the documentation site, into build/site; warnings are errors, no network is used
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

detectors-page: $(INSTALLED) ## make the tables of docs/reference/detectors/index.md again, from the detectors' declarations
	$(BIN)/python scripts/detectors_page.py

schemas: $(INSTALLED)    ## make docs/schemas again: JSON Schemas of the YAML files
	$(BIN)/python scripts/json_schemas.py

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)      ## speed comparisons, each side by side in one run
	$(BIN)/python scripts/speed/metrics.py
	$(BIN)/python scripts/speed/shared_pass.py
	$(BIN)/python scripts/speed/logistic_regression.py
	$(BIN)/python scripts/speed/training_throughput.py
	$(BIN)/python scripts/speed/against_pytorch_ood.py
	$(BIN)/python scripts/speed/large_features.py
	$(BIN)/python scripts/speed/score_command.py

release-check: $(INSTALLED) ## build sdist and wheel, install the wheel in a clean environment, use it there
	$(BIN)/python scripts/release/check_wheel.py $(ARGS)

$(INSTALLED): pyproject.toml
ifdef UV
	$(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV)
	$(UV) pip install --quiet --python $(BIN)/python -e '.[dev]'
else
	$(PYTHON) -m venv $(VENV)
	@echo "Installing (torch is large: a few minutes on a first time) ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
endif
	@touch $@

clean:
	rm -rf $(VENV) runs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
