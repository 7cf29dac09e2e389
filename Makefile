# bureau: make help shows what there is.

.DEFAULT_GOAL := help
.PHONY: help up down clean demo-chat build install test test-agents schemathesis check unit fuzz soak image

SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
TAGS := libvirt_dlopen

help: ## Show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: ## Bring an appliance with a desktop to life here; again is quick and harmless
	@packaging/host/up

down: ## Shut the desktops down and end the appliance
	@$(SUDO) packaging/host/down

clean: ## Remove everything that make up has made
	@$(SUDO) packaging/host/clean
	@rm -rf bureau dist desktop.png "$${XDG_CONFIG_HOME:-$$HOME/.config}/bureau/key" "$${XDG_CONFIG_HOME:-$$HOME/.config}/bureau/ca.pem"

demo-chat: ## Talk to the desktop's agent, whose model is a scripted one
	@packaging/host/demo-chat

build: ## Compile ./bureau
	@packaging/host/build bureau

test: ## Run everything that has to hold, real guests included
	@packaging/host/test

test-agents: ## Test Claude Code and Codex, from npm, on a real guest; downloads 360 MB once
	@packaging/host/test-agents

schemathesis: ## Fuzz the API of a real desktop, with each capability alone, for as long as it takes
	@$(SUDO) packaging/host/prepare --tests
	@BUREAU_TEST_SCHEMATHESIS=yes go test -tags $(TAGS) -timeout 120m -count 1 -v -run TestSchemathesis ./e2e

check: ## Only what is quick: format, vet, staticcheck
	@test -z "$$(find . -name '*.go' -exec gofmt -l {} + | tee /dev/stderr)"
	@go vet -tags $(TAGS) ./...
	@go tool staticcheck -tags $(TAGS) ./...

unit: ## Only the tests that boot no guest
	@go test -tags $(TAGS) $$(go list -tags $(TAGS) ./... | grep -v /e2e)

fuzz: ## Fuzz everything that strangers' bytes reach: an hour in all, or TIME=30s each
	@packaging/host/fuzz $(TIME)

soak: build ## Kill serve, libvirtd and QEMU at random, 300 times, and look what is left (SEED=… for the same plan)
	@go build -trimpath -buildvcs=false -o dist/soak ./soak
	@$(SUDO) dist/soak --bureau ./bureau $(if $(SEED),--seed $(SEED)) $(ARGS)

image: build ## Build and import the default image
	@$(SUDO) ./bureau image build --import
