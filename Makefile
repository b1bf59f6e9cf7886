# Two commands do everything: `make shards`, `make train`. `make help` lists the rest.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.setup-stamp
INSTALL := $(VENV)/bin/uv pip install --quiet --python $(PY) -c constraints.hashes.txt
CONFIG ?= configs/demo.yaml
TRAIN ?= configs/train/tiny.yaml
export RAY_USAGE_STATS_ENABLED := 0
export PYANNOTE_METRICS_ENABLED := 0
export TOKENIZERS_PARALLELISM := false

.PHONY: help setup pins models shards train example test test-all check format inspect report listen verify bench gpu-check study study-first study-demo study-data plots site clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11, 5) <= sys.version_info < (3, 13))' || { echo "Python 3.11 (from .5 on) or 3.12 is needed and $(PYTHON) is $$($(PYTHON) -V 2>&1): make PYTHON=python3.11 setup"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check uv==0.13.9

# Every file is checked against constraints.hashes.txt. fairseq is built from source, without isolation, so torch and numpy go in
# first; where it cannot be built, nothing but the comparison with it is lost.
$(STAMP): pyproject.toml constraints.hashes.txt | $(VENV)/bin/uv
	$(INSTALL) --group build
	$(INSTALL) -e '.[whisperx,romanise,dev]'
	@$(INSTALL) -e '.[fairseq]' 2>$(VENV)/fairseq.log || echo "fairseq could not be built here ($(VENV)/fairseq.log says why): set-up goes on without it, and the tests against it are skipped"
	@touch $@

setup: $(STAMP) ## make .venv with everything in it (no root needed; a second time takes a second)

pins: | $(VENV)/bin/uv ## constraints.hashes.txt anew from constraints.txt: the same versions with the hashes of their files
	$(VENV)/bin/uv pip compile --quiet --python-version 3.11.9 --generate-hashes --no-header --no-annotate \
	    --no-emit-index-url --no-deps constraints.txt -o constraints.hashes.txt

models: $(STAMP) ## fetch the Whisper model of the demo (75 MB), verified by its hash
	@$(PY) jobs/fetch_models.py whisper-tiny.en

shards: models ## audio in data/demo -> words, units, patches, shards under runs/demo
	@$(PY) jobs/fit_kmeans.py --config $(CONFIG)
	@$(PY) jobs/tokenize_audio.py --config $(CONFIG)
	@$(PY) jobs/report.py --config $(CONFIG)

train: shards ## train the smallest LST on those shards, under runs/train-tiny
	@$(PY) -m model.train $(TRAIN)

example: train ## runs/example.html: a plain transformer beside that LST, trained with its operations, and what both say
	@$(PY) -m model.train $(TRAIN) output_dir=runs/train-plain model=configs/model/plain-tiny.yaml 'budget={flops: 5.02e+12}'
	@$(PY) -m recipes.pictures.example

test: models ## the tests that fit in CI
	@$(PY) -m pytest -m "not slow and not gpu" -n 2 --dist loadgroup --durations=40

test-all: models ## every test this machine can run
	@$(PY) -m pytest

check: $(STAMP) ## format, lint, types, import rule
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy
	@$(PY) -m pytest -q tests/test_imports.py

format: $(STAMP) ## let ruff format and mend what it can
	@$(VENV)/bin/ruff format .
	@$(VENV)/bin/ruff check --fix .

inspect: $(STAMP) ## one segment's words, units and patches side by side
	@$(PY) jobs/inspect_segment.py --config $(CONFIG) $(ARGS)

report: $(STAMP) ## runs/demo/report.html: what went in, what came out, what it looks like
	@$(PY) jobs/report.py --config $(CONFIG) --force

listen: $(STAMP) ## runs/train-tiny/report.html: the trained model's losses, and what it says, to be heard
	@$(PY) -m jobs.hearing.report runs/train-tiny --text "It was the best of times"

verify: $(STAMP) ## re-hash every file and check every invariant
	@$(PY) jobs/verify_dataset.py --config $(CONFIG)

gpu-check: $(STAMP) ## on a machine with a GPU: tests, speed and memory; refreshes docs/results/gpu.md
	@$(PY) -m jobs.gpu.check

bench: models ## every benchmark that fits in 15 minutes; refreshes docs/results/bench.md
	@$(PY) -m benchmarks.run_all

study-demo: $(STAMP) ## the study's whole path in miniature (stories, shards, arms, scores, page) under runs/study-demo
	@$(MAKE) --no-print-directory study-data STORIES=demo TASKS=test
	@$(PY) -m recipes.study.run configs/experiments/study-demo.yaml
	@$(PY) -m recipes.study.check configs/experiments/study-demo.yaml --again static-s1-compute

study: $(STAMP) ## LST against its baselines (hours; goes on where it stopped; ARGS="--hours 2 --jobs 2"); docs/results/study.md
	@test -e runs/ladder-lex3/ladder.json || $(PY) -m recipes.ladder.make configs/stories/ladder-lex3.yaml
	@test -e runs/ladder-lex3/boundaries-words.npz || $(PY) -m jobs.lst fit-boundaries --order 7 \
	    --shards runs/ladder-lex3/shards/index.json --out runs/ladder-lex3/boundaries-words.npz
	@test -e runs/ladder-lex3/boundaries-entropy.npz || $(PY) -m jobs.lst fit-boundaries --order 7 --kind entropy --mean-length 4 \
	    --shards runs/ladder-lex3/shards/index.json --out runs/ladder-lex3/boundaries-entropy.npz
	@$(PY) -m recipes.study.run configs/experiments/study-ladder.yaml $(ARGS)

study-first: $(STAMP) ## the first study again (full stories, three voices; hours); docs/results/study-first.md
	@$(MAKE) --no-print-directory study-data STORIES=study TASKS="test-seen test-unseen"
	@$(PY) -m recipes.study.run configs/experiments/study.yaml $(ARGS)

study-data:
	@$(PY) -m recipes.stories.make --config configs/stories/$(STORIES).yaml
	@$(PY) jobs/fit_kmeans.py --config configs/stories/$(STORIES)-pipeline.yaml
	@$(PY) jobs/tokenize_audio.py --config configs/stories/$(STORIES)-pipeline.yaml
	@for task in $(TASKS); do $(PY) jobs/prepare_task.py --config configs/stories/$(STORIES)-pipeline.yaml \
	    runs/stories-$(STORIES)/tasks/$$task.jsonl runs/stories-$(STORIES)/tasks/$$task-units.jsonl; done

site: example ## the documentation and the example as pages, under runs/site (nothing is fetched when they are read)
	@$(VENV)/bin/zensical build --strict --clean
	@cp runs/example.html runs/site/assets/demo.html

plots: $(STAMP) ## loss curves of runs/*/metrics.jsonl in one PNG
	@$(PY) -m model.plots runs/train-*

clean: ## remove what the demos wrote (models, .venv and the study's runs stay)
	rm -rf runs/demo runs/train-tiny runs/train-plain runs/example.html runs/study-demo runs/stories-demo
