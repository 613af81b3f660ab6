# make round: play self-play rounds on the embedded model.   make test: every check that CI runs.
# Both create .venv on first use and need python3 (3.11 or later) and nothing else.
PYTHON ?= python3
BIN := .venv/bin
ITER ?= 2
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
export HF_HUB_DISABLE_TELEMETRY := 1
export TRANSFORMERS_VERBOSITY ?= error

.PHONY: help round test lint book book-test book-serve book-print pretrain experiments lead-picture spin-experiments spin-controls spin-map rsi-rounds rsi-collapse rsi-ablations rsi-beyond evaluation benchmarks bench faults scorer-benchmark scorer-parity study-test course course-bundle clean

help:
	@sed -n '1,2p' Makefile; echo "also: make book, make book-serve, make book-test, make book-print, make lint, make pretrain, make experiments, make lead-picture, make spin-experiments, make spin-controls, make spin-map, make rsi-rounds, make rsi-collapse, make rsi-ablations, make rsi-beyond, make evaluation, make benchmarks, make bench (speed beside what people use), make faults, make scorer-benchmark, make scorer-parity, make study-test, make course (students' notebooks and slides), make course-bundle RUNS=runs/..."

.venv/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.run: .venv/.created pyproject.toml constraints.txt
	@echo "installing (about two minutes, 2 GB)"
	$(PIP) --editable '.[notebooks]'
	@touch $@

.venv/.check: .venv/.run
	$(PIP) --editable '.[test,book,course]'
	@touch $@

round: .venv/.run
	@mkdir -p runs
	$(BIN)/papermill --log-output --no-progress-bar notebooks/spin_round.ipynb runs/spin_round_$(ITER).ipynb -p iter $(ITER) </dev/null
	@echo "executed notebook with pictures and tables: runs/spin_round_$(ITER).ipynb; the lines above say where the run's files are"

lint: .venv/.check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/nbstripout --verify notebooks/*.ipynb

# side by side, each in one thread: small models gain nothing from a second. Afterwards the built book is the small one; `make book`
# puts the published one back, and executes only what has changed since
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile
	$(BIN)/python book/build.py --preset smoke

book: .venv/.check
	$(BIN)/python book/build.py

# what shows or prints the book takes the one that is built; where there is none, the small one
book/_build/html/index.html: | .venv/.check
	$(BIN)/python book/build.py --preset smoke

# every page of the book in a real browser (the system's chromium), built from the notebooks as they are now, which is quick if none has
# changed: the small book, or with PRESET=shapes-spin the published one
book-test: .venv/.check
	$(BIN)/python book/build.py --preset $(or $(PRESET),smoke)
	$(PIP) --editable '.[test,book,browser]'
	@$(BIN)/pytest tests_browser/test_book*.py tests_browser/test_interactive.py; tested=$$?; echo "screenshots: runs/book-browser/"; exit $$tested

# the book as one page, book/_build/print/index.html, and as a PDF beside it
book-print: .venv/.check book/_build/html/index.html
	$(BIN)/python book/print_version.py

PORT ?= 8000
book-serve: book/_build/html/index.html
	@echo "the book: http://127.0.0.1:$(PORT)/ (Ctrl+C ends it)"
	@$(BIN)/python -m http.server --bind 127.0.0.1 --directory book/_build/html $(PORT) >/dev/null

pretrain: .venv/.run
	$(BIN)/python -m selfimprove_lab.pretrain

# Tunes every method, then plays every arm of experiments/table.py in every world whose weights are there. Each command says first what it
# costs (PLAN=--plan: and does nothing else). What is finished is not played again; what was killed goes on. JOBS processes of one thread
# each, on a GPU as well: make experiments JOBS=12 DEVICE=cuda. SIZE=smoke plays all of it with tiny counts; SEEDS="0" plays one seed
JOBS ?= 2
SIZE ?= full
EXPERIMENT = $(PLAY) $(1) --jobs $(JOBS) --device $(DEVICE) --size $(SIZE) $(PLAN)
experiments: .venv/.run
	$(call EXPERIMENT,experiments.tuning)
	$(call EXPERIMENT,experiments.play) --seeds $(SEEDS)

# base, SPIN, SFT, DPO and RSIDiff on the same prompts and noise, and shuffled sheets for readers who know nothing of it
lead-picture: .venv/.run
	$(PLAY) experiments.lead_picture
	$(PLAY) experiments.blind_reading sheets

# Two processes of one thread each, which get half as much again done as one of two threads. What is exported already is not played
# again; what was cut off goes on. SEEDS="0" plays one seed; DEVICE=cuda plays on a GPU, where a process should have the card to itself.
SEEDS ?= 0 1 2
DEVICE ?= cpu
PLAY := OMP_NUM_THREADS=1 $(BIN)/python -m
define side_by_side
	@$(PLAY) $(1) --device $(DEVICE) --seeds $(SEEDS) --arms $(2) & first=$$!; \
	$(PLAY) $(1) --device $(DEVICE) --seeds $(SEEDS) --arms $(3); second=$$?; wait $$first && exit $$second
endef

# rounds 1 to 3 and their baselines, three seeds: two hours on two cores (by the seconds in the exports, part of them beside other work, 141
# minutes; by the fastest seed of each arm 108)
spin-experiments: .venv/.run
	$(call side_by_side,experiments.spin_shapes,spin sft-steps sft-compute frozen dpo-lora,sft-examples dpo spin-lora sft-lora)

# one thing changed at a time, null rounds, and baselines at other budgets; three seeds: four hours
spin-controls: .venv/.run
	$(call side_by_side,experiments.spin_shapes,null null-reencoded dpo-compute,sft-compute-lora dpo-compute-lora)
	$(BIN)/python -m experiments.data_quality
	$(call side_by_side,experiments.spin_depth controls,continued pushing-off reweighting-frozen correlation hinge 'own-*',noise-apart all-apart '*-few' aggressive)
	$(BIN)/python -m experiments.judged_samplers

# where self-play pays, one seed: by the seconds in the exports 135 minutes on two cores; MAP_SEEDS="0 1 2" and DEVICE=cuda for a finer one
MAP_SEEDS ?= 0
spin-map: SEEDS := $(MAP_SEEDS)
spin-map: .venv/.run
	$(call side_by_side,experiments.spin_depth map,near far 'spin-*' 'sft-from-*','sft-[!f]*')

# each about 90 minutes on two cores, the ablations 150; stopped and started again they go on
rsi-rounds: .venv/.run
	$(BIN)/python -m experiments.rsi_shapes rounds
	$(BIN)/python -m experiments.prompt_quality

rsi-collapse: .venv/.run
	$(BIN)/python -m experiments.rsi_shapes collapse

rsi-ablations: .venv/.run
	$(BIN)/python -m experiments.rsi_shapes ablations

rsi-beyond: .venv/.run
	$(BIN)/python -m experiments.rsi_shapes beyond

# every model of the experiments above by the papers' protocols: about six hours of one core; two processes with OMP_NUM_THREADS=1 each,
# of different --seeds or --sets, share them
evaluation: .venv/.run
	$(BIN)/python -m experiments.evaluation_shapes

benchmarks: .venv/.run
	$(BIN)/python -m benchmarks.exact_objective
	$(BIN)/python -m benchmarks.rsi_stages
	$(BIN)/python -m benchmarks.training_memory
	$(BIN)/python -m benchmarks.scale

# Speed and memory on this CPU, for the page on speed: steps and rollouts at Stable Diffusion 1.5's size beside what people use, a run at that
# size by the command line, and what a round costs beside its networks. One thread; 16 GB of memory, 10 GB of disk, an hour; what is measured
# already is not measured again (AGAIN=--again). The GPU's cells: OUT=book/results bash benchmarks/gpu.sh
bench: .venv/.run
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.pairs $(AGAIN)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.real_size runs/real-size
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.captions

# kills, damaged files, full disks and more, done to tiny runs, and the page of the book that says what became of them; FAULTS=2 for a quick
# run. What is in book/results/faults.json is not tried again unless AGAIN=--again; ONLY="kill-*" tries some groups
FAULTS ?= 10
ONLY ?= *
faults: .venv/.check
	OMP_NUM_THREADS=1 $(BIN)/python -m faults --times $(FAULTS) --only $(foreach group,$(ONLY),'$(group)') $(AGAIN)

# images per second of every scorer's architecture; full sizes take about 10 GB of memory and, on two cores, 15 minutes
scorer-benchmark: .venv/.run
	$(BIN)/python -m benchmarks.scorers

# the published scorers against their authors' packages, in an environment of their own (1.4 GB; three minutes);
# FULL=--full for the published sizes (6 GB of disk and of memory)
PARITY := runs/scorer-parity
scorer-parity: .venv/.run
	test -d $(PARITY)/venv || $(PYTHON) -m venv $(PARITY)/venv
	$(PARITY)/venv/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 torchvision==0.28.0
	$(PARITY)/venv/bin/pip install --quiet --disable-pip-version-check --no-deps --requirement benchmarks/scorer_parity_requirements.txt
	$(PARITY)/venv/bin/python benchmarks/scorer_parity_originals.py $(PARITY)/written $(FULL)
	$(BIN)/python -m benchmarks.scorer_parity $(PARITY)/written

# the study and the selection by hand in a real browser (the system's chromium); two minutes; screenshots: runs/study-browser/
study-test: .venv/.run
	$(PIP) --editable '.[test,browser]'
	$(BIN)/pytest tests_browser/test_study_browser.py

# students' notebooks and slides into runs/course/; the pictures of the slides are drawn: a minute
course: .venv/.check
	$(BIN)/python -m course.release
	$(BIN)/python -m course.slides

# finished run folders as one file, so that no class waits for a round: make course-bundle RUNS="runs/shapes-spin-288d6239"
course-bundle: .venv/.check
	@test -n "$(RUNS)" || { echo 'name finished run folders: make course-bundle RUNS="runs/shapes-spin-288d6239"'; exit 1; }
	$(BIN)/python -m course.bundle pack $(RUNS)

clean:
	rm -rf .venv runs book/_build book/executed book/_cache .pytest_cache .mypy_cache .ruff_cache
