# make venv     the command from this checkout, as .venv/bin/qosctl, and nothing more
# make install  the command for everybody, as /usr/local/bin/qosctl: a copy in /opt/qosctl that is root's own  (root)
# make demo     stamped packets from a bare Debian 12 machine, explained as it goes     (root)
# make test     all checks and tests                                                   (root)
# make unit     the tests that need neither root nor the kernel's leave, in tests/unit: in seconds, for any user
# make audit    the hostile cases alone: what an attacker would try                     (root)
# make check    style, types, import direction; changes nothing
# make test-minima, test-newest   what leans on libraries, with the oldest and the newest that pyproject.toml allows   (root)
# make lock     write anew what the package and the image carry, with hashes
# make bench    our figures beside openconnect's, into build/bench.json                (root)
# make figures  every generated page, table and picture of docs/ and README, from the last results; loses no row
# make test-kernels   what counts on another kernel, Debian's, under qemu               (root)
# make endurance  a million records, and the supervisor's promises at full length      (root)
# make fuzz     the program against its reference, and the parsers, for longer than the tests do   (root)
# make leaks    the wire watched through every fault: nothing leaves outside of the tunnel (root)
# make soak     an hour of traffic and faults for the client                           (root)
# make docs     the man page and shell completions, from the parser, into build
# make deb      the Debian package, into build/deb
# make test-deb the package on a clean Debian, booted, used, purged                     (root)
# make clean    remove what these made
#
# Each installs what it needs first: Debian packages, then Python's into .venv. What runs and is tested is the
# installed package, never the tree; a changed source reinstalls just that.

VENV := .venv
PREFIX := /opt/qosctl
BIN := $(VENV)/bin
PYTHON := $(BIN)/python
PACKAGES := bpf dtls metrics supervisor
# Folders are listed too: their time changes when a file goes.
SOURCES := pyproject.toml README.md COPYING $(shell find $(PACKAGES) \( -name __pycache__ -o -name '.?*' \) -prune -o -print)

# The tests that would notice a library that is too old or too new: each call into one is made in them, on real parts.
LEANING := $(addprefix tests/unit/dtls/record/test_,handshake.py keys.py protection.py) \
	$(addprefix tests/dtls/,test_client.py test_refusals.py transport/test_tun.py) tests/metrics/test_server.py \
	tests/supervisor/devices/test_attach.py::test_attach_twice_is_a_notice \
	tests/supervisor/devices/test_foreign_filters.py::test_somebody_took_the_program_off

# Compiled modules are kept, whatever the machine's habit: each of many processes of the tests would compile them again.
unexport PYTHONDONTWRITEBYTECODE

# Most tests wait for namespaces and servers: six at a time keep two cores busy. Who has nothing left to do takes over half
# of what another still has, so nobody works alone at the end.
WORKERS := 6

.PHONY: venv install endurance leaks demo test unit audit test-minima test-newest lock test-kernels check bench figures fuzz docs deb test-deb clean root system
.NOTPARALLEL:
.DELETE_ON_ERROR:

venv: $(VENV)/project
	@echo "$(CURDIR)/$(BIN)/qosctl"

# Not a link to this checkout: whoever may change that would change what root runs.
install: root system
	@/usr/bin/python3 -m venv --system-site-packages $(PREFIX)
	@$(PREFIX)/bin/pip install -qq --disable-pip-version-check --only-binary :all: --require-hashes -r deploy/requirements.txt
	@deploy/wheel . build/wheel
	@$(PREFIX)/bin/pip install -qq --disable-pip-version-check --no-index --no-deps --force-reinstall build/wheel/*.whl
	@ln -sfn $(PREFIX)/bin/qosctl /usr/local/bin/qosctl
	@echo /usr/local/bin/qosctl

demo: root $(VENV)/project
	@$(PYTHON) -m tests.demo

# On the core that mypy leaves idle, pytest reads all tests: what it makes of them is kept, else each worker would make it.
test: root $(VENV)/project
	@$(PYTHON) -m pytest --collect-only -qq >/dev/null 2>&1 & $(MAKE) --no-print-directory check; checked=$$?; wait; exit $$checked
	@$(PYTHON) -m pytest -n $(WORKERS) --dist worksteal

# Fewer examples of each property than `make test` tries, so that one runs it after every change.
unit: $(VENV)/project
	@$(PYTHON) -m pytest -n 2 --dist worksteal --hypothesis-profile=quick tests/unit

audit: root $(VENV)/project
	@$(PYTHON) -m pytest -n $(WORKERS) --dist worksteal -m audit

check: $(VENV)/project
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy $(PACKAGES:%=-p qosctl.%) -p tests
	@$(BIN)/lint-imports --no-cache

bench: root $(VENV)/project
	@$(PYTHON) -m tests.bench

figures: $(VENV)/project
	@$(PYTHON) -m tests.figures

# Each in an environment of its own, made anew: what an older run left would be neither the oldest nor the newest.
test-minima test-newest: test-%: root system $(VENV)/project
	@rm -rf build/$* build/lib build/bdist.*
	@/usr/bin/python3 -m venv --system-site-packages build/$*
	@$(if $(filter minima,$*),$(PYTHON) -m tests.minima,true) >build/$*/constraints.txt
	@build/$*/bin/pip install -qq --disable-pip-version-check --upgrade --constraint build/$*/constraints.txt setuptools
	@build/$*/bin/pip install -qq --disable-pip-version-check --upgrade --upgrade-strategy eager --no-build-isolation \
		--constraint build/$*/constraints.txt '.[dev]'
	@build/$*/bin/pip list --disable-pip-version-check 2>/dev/null | \
		grep -iE '^(cryptography|pyopenssl|pyroute2|prometheus|waitress|idna|setuptools)'
	@build/$*/bin/python -m pytest -n $(WORKERS) --dist worksteal $(LEANING)

lock: system
	@deploy/lock

test-kernels: root $(VENV)/project
	@$(PYTHON) -m tests.kernels

endurance: root $(VENV)/project
	@$(PYTHON) -m tests.endurance

fuzz: root $(VENV)/project
	@$(PYTHON) -m tests.fuzz
	@$(PYTHON) -m tests.fuzz.parsers

leaks: root $(VENV)/project
	@$(PYTHON) -m pytest -n 2 tests/leaks/every_row.py

soak: root $(VENV)/project
	@$(PYTHON) -m tests.soak

docs: $(VENV)/project
	@mkdir -p build/man build/completion
	@$(BIN)/argparse-manpage --module qosctl.supervisor.cli.main --function build_parser --project-name qosctl \
		--description "carry the DSCP of what is inside a DTLS tunnel onto its outer packets" \
		--manual-title "User Commands" --output build/man/qosctl.1 >/dev/null
	@for shell in bash zsh fish tcsh; do \
		$(BIN)/shtab --shell=$$shell --prog qosctl qosctl.supervisor.cli.main.build_parser >build/completion/qosctl.$$shell; done
	@echo "build/man/qosctl.1, build/completion/qosctl.{bash,zsh,fish,tcsh}"

deb: docs
	@deploy/debian/build

test-deb: root deb
	@deploy/debian/test build/deb/qosctl_*.deb

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

root:
	@test "$$(id -u)" = 0 || { echo "qosctl builds network namespaces and loads BPF programs: run this as root \
	(try: sudo make $(MAKECMDGOALS))" >&2; exit 1; }

system:
	@deploy/install-deps

# bcc comes from the distribution, so the environment sees the distribution's packages.
$(VENV)/dependencies: pyproject.toml | system
	@echo "installing Python packages into $(VENV)" >&2
	@/usr/bin/python3 -m venv --system-site-packages $(VENV)
	@$(BIN)/pip install -qq --disable-pip-version-check --no-compile 'setuptools>=77.0.1' '.[dev]'
	@$(PYTHON) -m compileall -qq -j 0 $(VENV)/lib || true # pip does that on one core, and fails for no file either
	@touch $@

# The build folder of the last time would bring back modules that are gone.
$(VENV)/project: $(VENV)/dependencies $(SOURCES)
	@rm -rf build/lib build/bdist.*
	@$(BIN)/pip install -qq --disable-pip-version-check --no-deps --no-build-isolation .
	@touch $@
