# Every target is one line of help: make help
SHELL := /bin/bash
.DELETE_ON_ERROR:
PYTHON ?= $(shell for v in python3 python3.13 python3.12 python3.11; do \
	command -v $$v >/dev/null && $$v -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && { echo $$v; break; }; done)
BIN := .venv/bin
# The tests start hundreds of Python processes: they share the compiled modules.
unexport PYTHONDONTWRITEBYTECODE
comma := ,
# Options of `make demo`, passed on only when given.
DEMO_OPTIONS = $(if $(FILES),--files $(FILES)) $(if $(LABELS),--labels $(LABELS)) $(if $(BRANCH),--branch $(BRANCH)) \
	$(if $(MODEL),--model $(MODEL)) $(if $(PARAMS),--params $(PARAMS)) $(if $(KEEP),--keep)

# The repository is the collection: playbooks find its roles through this link.
PLAY = ANSIBLE_COLLECTIONS_PATH=build/collections .venv-stack/bin/ansible-playbook -i inventory/local.yml
DEPLOY_OPTIONS = $(if $(ISSUER),-e mlaas4hep_issuer=$(ISSUER)) $(if $(DOMAIN),-e mlaas4hep_domain=$(DOMAIN)) \
	$(if $(EMAIL),-e mlaas4hep_email=$(EMAIL)) $(if $(GROUPS),-e '{"mlaas4hep_allowed_groups": ["$(subst $(comma),"$(comma)",$(GROUPS))"]}')

# The real parts of the tests (tests/parts), and what finds them.
PARTS = $(PYTHON) tests/parts
ENGINE = env $$($(PARTS) environment)
STACK = $(ENGINE) PATH="$(CURDIR)/.venv-stack/bin:/usr/bin:$$PATH"

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s $$'\t'

demo: .venv/app  ## from ROOT files to a served prediction; FILES=a.root,b.root LABELS=1,0 BRANCH=events for your own
	@$(BIN)/mlaas4hep demo $(DEMO_OPTIONS)

test: lint lint-stack .venv-core216/made .venv-im/made root-files  ## what CI runs: all tests (root)
	$(PARTS) up engine pki vm node neighbour registry keycloak pebble browser xrootd
	$(MAKE) --jobs=3 --output-sync=target test-deployed test-computing test-machines

# Three groups of about the same length for two cores: only the application's tests compute all the time.
test-deployed:  ## a part of make test: the whole stack on a machine (root)
	$(MAKE) --jobs=1 test-stack
test-computing:  ## a part of make test: collection, templates, application, files on servers (root)
	$(MAKE) --jobs=1 test-collection test-tosca test-app test-grid
test-machines:  ## a part of make test: trainings in containers, images, the role machine, dodas (root)
	$(MAKE) --jobs=1 test-engine test-images test-machine test-dodas

test-quick: lint lint-stack test-collection test-tosca test-app  ## style, the tests of application, collection and templates

test-app: .venv/test root-files  ## the tests of the application, but those with servers or containers
	cd app && ../$(BIN)/pytest -m "not engine and not grid" tests ../tests/test_*.py

test-grid: .venv/test root-files  ## the tests of files on servers of the grid: root://, https://, s3://, with proxies and tokens
	$(PARTS) up xrootd
	cd app && ../$(BIN)/pytest -m grid tests

test-hostile: .venv/test  ## attacks, and how each ends now
	cd app && ../$(BIN)/pytest -m hostile tests

root-files: .venv-root/made  ## the files that ROOT writes for the tests, once, into the cache
	@.venv-root/bin/python app/tests/real/write.py

test-engine: .venv/test  ## trainings in containers (root)
	$(PARTS) up engine
	$(ENGINE) bash -c 'cd app && ../$(BIN)/pytest -m engine tests'

test-images: .venv-stack/made  ## the container images (root)
	$(PARTS) up engine
	$(STACK) pytest tests/images

test-stack: .venv-stack/made .venv-core216/made build/collections  ## the whole stack on a machine made for it (root)
	$(PARTS) up engine pki vm neighbour registry keycloak pebble browser
	$(STACK) docker rm --force mlaas4hep-test-vm
	$(STACK) timeout 300 molecule -c molecule/shared/base.yml reset -s default
	$(STACK) timeout 5400 molecule -c molecule/shared/base.yml test --all

docs-img: export MLAAS4HEP_WRITE_PICTURES = 1
docs-img: test-stack  ## take the pictures of docs/img again, from the stack's tests (root)

test-machine: .venv-stack/made .venv-core216/made build/collections  ## the role machine: accounts, bans, disks (root)
	$(PARTS) up engine vm
	$(STACK) pytest tests/machine

test-collection: .venv-stack/made build/collections  ## the collection without a host: options, contents, preflight
	.venv-stack/bin/pytest tests/collection tests/roles

test-tosca: .venv-stack/made build/collections  ## the templates, before the programs that read them
	.venv-stack/bin/pytest --timeout 300 tosca/tests

check-template: .venv-stack/made  ## everything that is wrong with a filled-in template: TEMPLATE=my.yaml
	@$(if $(TEMPLATE),,echo "make check-template needs TEMPLATE=, the filled-in template" >&2; exit 2;) \
	  .venv-stack/bin/python tosca/check.py $(TEMPLATE)

test-dodas: .venv/test .venv-stack/made .venv-im/made  ## `dodas create` to destroy: the IM, a stand-in for OpenStack, machines made for it (root)
	$(PARTS) up pki node neighbour registry keycloak pebble images
	$(ENGINE) .venv-im/bin/python -m pytest tests/dodas

dodas-cli: .venv-im/made  ## whether the real command sends the same requests as the tests; DODAS_BIN=/path/to/dodas
	@$(if $(DODAS_BIN),,echo "make dodas-cli needs DODAS_BIN=, the dodas command" >&2; exit 2;) \
	  test -f "$(DODAS_BIN)" -a -x "$(DODAS_BIN)" || \
	    { echo "DODAS_BIN is $(DODAS_BIN), which is not a program; it must be the path of the dodas command" >&2; exit 2; }; \
	  env $$($(PARTS) environment) DODAS_BIN=$(DODAS_BIN) .venv-im/bin/python -m pytest tests/dodas/real_command.py

lint: .venv/test  ## style, types, and which package may import which
	$(BIN)/ruff check -q . && $(BIN)/ruff format -q --check . && cd app && ../$(BIN)/mypy && ../$(BIN)/lint-imports

soak: .venv/test  ## the long tests: 300 kills of server, runner and trainings at random moments, 10,000 damaged files and params.json, 2 GB of events in little memory, servers of files, and of the cache, that fail in each way (root)
	cd app && MLAAS4HEP_TEST_FUZZ=10000 ../$(BIN)/pytest -s tests/sources/test_fuzz.py tests/training/test_fuzz.py
	cd app && ../$(BIN)/pytest -s tests/training/large.py
	cd app && MLAAS4HEP_TEST_KILLS=300 ../$(BIN)/pytest -s tests/jobs/test_kills.py
	$(PARTS) up xrootd
	cd app && MLAAS4HEP_TEST_FAULTS=all ../$(BIN)/pytest tests/training/test_faults.py && ../$(BIN)/pytest -s tests/grid/faults.py

bench: .venv/test  ## speed of the data path, of remote files, of training, of serving and of serving too many clients, as ratios to a reference taken in the same run; BASE=COMMIT compares its server
	$(if $(BASE),,$(PARTS) up xrootd)
	cd app && $(if $(BASE),,../$(BIN)/python bench/data_path.py && ../$(BIN)/python bench/remote.py && ../$(BIN)/python bench/training.py &&) \
	  ../$(BIN)/python bench/serving.py $(if $(BASE),--base $(BASE)) $(if $(BASE),,&& ../$(BIN)/python bench/overload.py)

docs: .venv/app .venv-stack/made  ## generate docs/reference, the roles' READMEs and the templates from the code
	$(BIN)/python docs/generate.py && .venv-stack/bin/python docs/roles.py && .venv-stack/bin/python tosca/generate.py

PROTO = app/src/mlaas4hep/web/tfaas
# Generates for protobuf 6.31, which all later versions of 6 take.
proto:  ## generate tfaas_pb2.py from tfaas.proto
	$(PYTHON) -m venv build/proto && build/proto/bin/pip install -q --disable-pip-version-check grpcio-tools==1.76.0
	build/proto/bin/python -m grpc_tools.protoc -I $(PROTO) --python_out=$(PROTO) --pyi_out=$(PROTO) tfaas.proto

release: .venv-stack/made  ## the files that the IM and operators fetch: VERSION=1.2.3 RELEASE_URL=https://... [ARGS="--image service_image=..."]
	@$(if $(RELEASE_URL),,echo "make release needs RELEASE_URL=, where the files will be put" >&2; exit 2;) \
	  .venv-stack/bin/python tosca/release.py --release-url $(RELEASE_URL) $(if $(VERSION),--version $(VERSION)) $(ARGS)

images:  ## build the container images mlaas4hep/service, tfaas and job; IMAGES="tfaas job-gpu" ARGS="--network host" (docker/README.md)
	@$(PYTHON) docker/build.py $(IMAGES) $(ARGS)

LOCK_TO = uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --custom-compile-command 'make lock'
UPGRADE = $(if $(PACKAGE),--upgrade-package $(PACKAGE),--upgrade)
lock:  ## update the locked versions, of PACKAGE=name only or of all (needs uv)
	cd app && $(LOCK_TO) $(UPGRADE) --extra data --extra train --extra parquet --extra serve --extra server --extra build \
	  pyproject.toml -o locks/app.txt
	cd app && $(LOCK_TO) $(UPGRADE) --all-extras -c locks/app.txt pyproject.toml -o locks/test.txt
	$(MAKE) lock-images lock-stack

lock-images:  ## the lock of each image, with the versions of app/locks/app.txt
	cd app && printf 'hatchling\nuv\n' | $(LOCK_TO) --no-annotate -c locks/app.txt - -o locks/build.txt
	cd app && $(LOCK_TO) --extra server -c locks/app.txt pyproject.toml -o locks/service.txt
	cd app && $(LOCK_TO) --extra serve -c locks/app.txt pyproject.toml -o locks/tfaas.txt
	cd app && $(LOCK_TO) --extra train -c locks/app.txt pyproject.toml -o locks/job.txt
	cd app && sed -n 's/^tensorflow-cpu==\([^ ]*\).*/tensorflow[and-cuda]==\1/p' locks/app.txt | $(LOCK_TO) --no-annotate --extra train \
	  -c locks/app.txt --overrides <(echo 'tensorflow-cpu ; python_version < "3"') pyproject.toml - -o locks/job-gpu.txt

lock-stack:  ## update the lock of the tools of the stack's tests
	for name in stack core216 im node root s3; do $(LOCK_TO) $(UPGRADE) tests/locks/$$name.in -o tests/locks/$$name.txt; done
	cd tests/stack && npm install --package-lock-only --silent

deploy: .venv-stack/made build/collections  ## install the stack on this machine (root); ISSUER= DOMAIN= EMAIL= GROUPS=a,b open it to users
	$(PLAY) $(DEPLOY_OPTIONS) playbooks/site.yml

deploy-check: .venv-stack/made build/collections  ## what `make deploy` would change
	$(PLAY) $(DEPLOY_OPTIONS) --check --diff playbooks/site.yml

lint-stack: .venv-stack/made build/collections  ## style of roles and playbooks
	.venv-stack/bin/yamllint --strict . && ANSIBLE_HOME=build/ansible ANSIBLE_COLLECTIONS_PATH=build/collections .venv-stack/bin/ansible-lint --offline -q

# ansible-test only runs in a collection's own folder, and installs its linters itself: `make lint-stack` needs no network.
SANITY = build/sanity/ansible_collections/mlaas4hep/stack
sanity: .venv-stack/made  ## ansible-test's checks of plugins/ (needs a network)
	rm -rf build/sanity && mkdir -p $(SANITY)
	git ls-files -z galaxy.yml meta plugins tests/sanity | xargs -0 cp --parents -t $(SANITY)
	cd $(SANITY) && git init -q && git add . && PATH="$(CURDIR)/.venv-stack/bin:$$PATH" ansible-test sanity plugins/

clean:  ## remove everything that the other targets made
	rm -rf .venv .venv-stack .venv-core216 .venv-im .venv-root demo build

# The environment: exactly the versions of the lock, each file checked against its hash.
.venv/made:
	@test -n "$(PYTHON)" || { echo "MLaaS4HEP needs Python 3.11 to 3.13: apt install python3 python3-venv" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv module is missing: apt install python3-venv" >&2; exit 2; }
	@$(PYTHON) -m venv .venv && touch $@

.venv/app: app/locks/app.txt app/pyproject.toml | .venv/made
	@echo "Installing what the application needs into .venv (2 GB; the first time it takes minutes, without output)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r app/locks/app.txt
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e app
	@touch $@

.venv/test: app/locks/test.txt .venv/app
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r app/locks/test.txt
	@touch $@

# Ansible and the tools of the stack's tests, and the oldest Ansible that is supported.
.venv-stack/made: tests/locks/stack.txt
.venv-core216/made: tests/locks/core216.txt
# The Infrastructure Manager, which dodas talks to.
.venv-im/made: tests/locks/im.txt
# ROOT. It compiles C++ when it runs, and takes the standard library's headers from the machine.
.venv-root/made: tests/locks/root.txt | c++
c++:
	@command -v g++ >/dev/null || { echo "ROOT, which writes files for the tests, needs g++: apt install g++" >&2; exit 2; }

.venv-stack/made .venv-core216/made .venv-im/made .venv-root/made: | .venv/made
	@echo "Installing what $< names into $(@D)"
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r $<
	@touch $@

build/collections:
	@mkdir -p $@/ansible_collections/mlaas4hep && ln -s ../../../.. $@/ansible_collections/mlaas4hep/stack

.PHONY: docs-img sanity test-deployed test-computing test-machines c++ root-files test-quick test-dodas dodas-cli test-collection test-engine test-grid test-hostile test-images test-machine test-stack test-tosca check-template release lock-stack deploy deploy-check lint-stack help demo test test-app lint soak bench docs proto images lock lock-images clean
.DEFAULT_GOAL := help
