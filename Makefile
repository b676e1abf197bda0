# Each target installs what it needs into a local virtual environment, once: a stamp file per extra says that it is
# there, and is renewed when setup.cfg or pyproject.toml changes.

PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=

bin     := $(VENV)/bin
extra    = $(VENV)/.installed-$(1)
sources := $(wildcard cgopt cgopt_rl benchmarks tests docs)

export PIP_DISABLE_PIP_VERSION_CHECK = 1

# Real matrices for the tests that can use them; those skip themselves where there are none.
ifndef CGOPT_DATA
ifneq ($(wildcard ../shared/.),)
export CGOPT_DATA := $(abspath ../shared)
endif
endif

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo test test-long bench bench-peers bench-rl test-gpu bench-gpu lint-gpu docs lint clean
.PHONY: learn-classic learn-mujoco learn-a2c learn-dqn learn-key-door learn-ddpg learn-ddpg-mujoco
.PHONY: learn-autoencoder learn-recurrent

help: ## list the targets
	@echo "make TARGET [PYTHON=python3.12] [ARGS='options for the program that is run']"
	@echo
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | \
	    while IFS='|' read -r target text; do printf '  %-20s %s\n' "$$target" "$$text"; done

demo: $(call extra,demo) ## solve a system, train a policy, print what happened, draw both
	@$(bin)/cgopt demo $(ARGS)
	@echo
	@$(bin)/cgopt-rl demo

test: $(call extra,test) ## the tests and the examples in the docstrings
	@$(bin)/python -m pytest -q --doctest-modules cgopt cgopt_rl tests $(ARGS)

test-long: $(call extra,test) ## the long reproductions, left out of `make test`
	@$(bin)/python -m pytest -q -m long tests $(ARGS)

# asv asks for a description of the machine the first time; --yes takes the one it finds.
bench: $(call extra,bench) ## our own speed, quickly, in this environment (asv)
	@test -f "$$HOME/.asv-machine.json" || $(bin)/asv machine --yes >/dev/null
	@$(bin)/asv run --python=same --quick --show-stderr $(ARGS)

# With options, solves and products only; the options of training are those of bench-rl.
bench-peers: $(call extra,bench) $(call extra,bench-rl) ## our speed beside other libraries: tables and pictures
	@$(bin)/python -m benchmarks.peers $(ARGS)
	@$(if $(ARGS),,$(bin)/python -m benchmarks.rl_peers)

bench-rl: $(call extra,bench-rl) ## its second half alone: training beside Stable-Baselines3, Fisher products
	@$(bin)/python -m benchmarks.rl_peers $(ARGS)

learn-classic: $(call extra,rl) ## train on classic control with 10 seeds each, and record the returns
	@$(bin)/python -m benchmarks.learning classic $(ARGS)

learn-dqn: $(call extra,box2d) ## DQN on classic control and LunarLander with 10 seeds each; may be stopped, goes on
	@$(bin)/python -m benchmarks.learning dqn $(ARGS)

learn-key-door: $(call extra,rl) ## two rooms with key and door: hierarchical and flat agents, 5 seeds each
	@$(bin)/python -m benchmarks.learning key-door $(ARGS)

learn-mujoco: $(call extra,mujoco) ## the same on MuJoCo with 3 seeds; may be stopped, goes on (ARGS='--minutes 10')
	@$(bin)/python -m benchmarks.learning mujoco $(ARGS)

learn-a2c: $(call extra,rl) ## the actor-critic on classic control, 10 seeds
	@$(bin)/python -m benchmarks.learning a2c $(ARGS)

learn-ddpg: $(call extra,rl) ## DDPG on the pendulum, 10 seeds
	@$(bin)/python -m benchmarks.learning ddpg $(ARGS)

learn-ddpg-mujoco: $(call extra,mujoco) ## DDPG on MuJoCo, 2 seeds; goes on (ARGS='--minutes 10', ARGS='--steps 1000000')
	@$(bin)/python -m benchmarks.learning ddpg-mujoco $(ARGS)

learn-autoencoder: $(call extra,test) ## Hessian-free against Adam, NAG and L-BFGS on the digits (ARGS='mnist --minutes 30')
	@$(bin)/python -m benchmarks.autoencoder $(or $(ARGS),digits)

learn-recurrent: $(call extra,test) ## Hessian-free against NAG on long delays; may be stopped, goes on (ARGS='--minutes 30')
	@$(bin)/python -m benchmarks.recurrent $(ARGS)

# CuPy for the CUDA version that the machine's driver speaks; to say it oneself: make test-gpu CUDA=cuda12
ifneq ($(filter test-gpu bench-gpu,$(MAKECMDGOALS)),)
CUDA ?= $(if $(findstring CUDA Version: 12,$(shell nvidia-smi 2>/dev/null)),cuda12,cuda13)
endif

test-gpu: $(call extra,$(CUDA)) $(call extra,test-gpu) ## the tests of the GPU backend on the GPU
	@$(bin)/python -m tests.gpu $(ARGS)

bench-gpu: $(call extra,$(CUDA)) ## the GPU backend beside CuPy's solver and the device's own rates
	@$(bin)/python -m benchmarks.gpu $(ARGS)

lint-gpu: $(call extra,test) ## compile the GPU kernels (no GPU needed); registers and spills of each
	@$(bin)/python -m tests.gpu.compilers

docs: $(call extra,docs) ## build the documentation and run its examples
	@$(bin)/sphinx-build -q -E -W --keep-going -b html -d docs/_build/doctrees docs docs/_build/html
	@$(bin)/sphinx-build -q -W --keep-going -b doctest -d docs/_build/doctrees docs docs/_build/doctest
	@echo "The documentation is in docs/_build/html/index.html, and its examples ran."

lint: $(call extra,lint) ## ruff and mypy
	@$(bin)/ruff check $(sources)
	@$(bin)/mypy $(wildcard cgopt cgopt_rl)

clean: ## remove what was built; the virtual environment and the asv results stay
	@rm -rf build dist docs/_build docs/generated .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	@find $(sources) -type d -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/pyvenv.cfg:
	@command -v $(PYTHON) >/dev/null || \
	    { echo "There is no '$(PYTHON)' here. Name a Python 3.11 or newer: make PYTHON=/path/to/python ..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "cgopt needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) -V 2>&1)." \
	           "Name another: make PYTHON=python3.12 ..."; exit 1; }
	@echo "Creating the virtual environment $(VENV) ..."
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	    echo "'$(PYTHON) -m venv' failed; on Debian and Ubuntu the package python3-venv is needed."; exit 1; }

$(VENV)/.installed-%: setup.cfg pyproject.toml $(VENV)/pyvenv.cfg
	@echo "Installing cgopt[$*] into $(VENV) ..."
	@$(bin)/python -m pip install -q -e '.[$*]'
	@touch $@
