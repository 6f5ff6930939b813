# Two commands matter: `make demo` shows the product at work, `make test` proves it.

CARGO ?= cargo
# Statements are checked against the prepared data in the repository, not against a database.
export SQLX_OFFLINE ?= true

.PHONY: help demo build test test-real chaos check fmt lint docs set-up clean-data

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

set-up: ## Install missing system packages and build the embedded broker, once
	@scripts/set-up

demo: set-up build ## Run the whole pipeline on real pins and open the pages on 127.0.0.1:8080
	@$(CARGO) run --quiet --locked -- demo

build: set-up ## Build the binary (the first time a quarter of an hour on two cores, then seconds)
	@echo "building Pinwheel: about a quarter of an hour the first time on two cores, then seconds" >&2
	@$(CARGO) build --locked

test: ## Run every test (about seven minutes on two cores once everything is built)
	@scripts/set-up --tests
	@echo "building Pinwheel and its tests: about a quarter of an hour the first time on two cores" >&2
	@$(CARGO) test --workspace --locked

test-real: ## Run the data path's tests on real services: Apache Kafka, HBase, an S3 server (needs Java, Maven and Go)
	@scripts/test-real

chaos: set-up ## Break things at random for minutes: kill -9, SIGSTOP, Postgres restarted, connections cut
	@PINWHEEL_CHAOS_FAULTS=$${PINWHEEL_CHAOS_FAULTS:-60} PINWHEEL_CHAOS_SEED=$${PINWHEEL_CHAOS_SEED:-random} \
		$(CARGO) test --locked --package pinwheel --test end_to_end chaos:: -- --nocapture

check: fmt lint ## Check formatting and lints

fmt: ## Check formatting
	@$(CARGO) fmt --all --check
	@$(CARGO) fmt --manifest-path tools/broker/Cargo.toml --check

lint: ## Run clippy; warnings are errors
	@$(CARGO) clippy --workspace --all-targets --test real --test real_landing --test real_services \
		--features pinwheel-streaming/real-services --locked -- -D warnings

docs: ## Build the API documentation; warnings are errors
	@RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked

clean-data: ## Remove the data of the embedded default (not its tools)
	@scripts/clean-data
