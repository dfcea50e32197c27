# `make run` and `make test` do everything, and next to nothing the second time.
SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help run test lint bench screenshots clean qt xvfb

# Linux with neither X11 nor Wayland: a window could not open.
headless := $(if $(DISPLAY)$(WAYLAND_DISPLAY),,$(filter Linux,$(shell uname -s)))
bin := .venv/bin
on_screen := scripts/xvfb.sh

help: ## this list
	@sed -nE 's/^([a-z]+):.*## /make \1 \t/p' $(MAKEFILE_LIST) | expand -t 18

ifeq ($(headless),)
run: qt .venv/.app ## open the window (ARGS="…" is passed on); without a display: the demo, into ./demo
	@$(bin)/python main.py $(ARGS)
else
run: .venv/.app
	@echo "No display here, so the same job runs without a window: cem-explorer demo --out demo"
	@$(bin)/cem-explorer demo --out demo
	@echo "Done: look at demo/sheet.png and demo/morph.png (an animation)."
endif

test: xvfb .venv/.test ## the whole suite, with real windows on a screen of its own (ARGS="-k scrub")
ifeq ($(ARGS),)
	@code=0; \
	$(bin)/python -m pytest tests/core -n auto --maxprocesses 8 --dist loadgroup || code=1; \
	$(on_screen) $(bin)/python -m pytest tests/gui tests/e2e tests/packaging || code=1; \
	exit $$code
else
	@$(on_screen) $(bin)/python -m pytest $(ARGS)
endif

lint: .venv/.lint ## ruff and mypy
	@$(bin)/ruff check .
	@$(bin)/ruff format --check .
	@$(bin)/mypy

bench: xvfb .venv/.test .venv/.bench ## the measured figures, as ratios
	@$(on_screen) $(bin)/python -m tests.bench $(ARGS)

screenshots: xvfb .venv/.app ## the README's pictures, made by the running program
	@$(on_screen) $(bin)/python scripts/screenshots.py $(ARGS)

clean: ## caches and build products (delete .venv yourself to start over)
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

qt:
	@scripts/system.sh qt

xvfb:
	@scripts/system.sh qt xvfb

# One stamp per extra; `app` is the project without any.
.venv/.%: pyproject.toml constraints.txt scripts/install.sh
	@scripts/install.sh $*
