# Tradewind's targets. `make help` lists them.
SHELL := /bin/bash
GO ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS := -s -w -X main.version=$(VERSION)
# Without it gRPC brings golang.org/x/net/trace, whose templates call methods by names that the linker cannot know: it then keeps every
# exported method of every type, 6 MB of the gateway.
TAGS := grpcnotrace
FUZZTIME ?= 30s
# Several packages' tests assert what happens within milliseconds; more of them side by side than there are cores blurs that.
TESTFLAGS ?= -p 2 -shuffle=on -timeout 10m
TOOLS := bin/tools/consul bin/tools/etcd bin/tools/kube-apiserver bin/tools/h2spec bin/tools/grpc-client bin/tools/grpc-server \
	bin/tools/pebble bin/tools/pebble-challtestsrv

.DEFAULT_GOAL := help
.PHONY: help size tools build demo test race lint fuzz e2e e2e-kubernetes e2e-doubles bench bench-quick kills simulate man check clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/tradewind and bin/tradewind-gateway
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) build -trimpath -tags $(TAGS) -ldflags '$(LDFLAGS)' -o bin/ ./cmd/tradewind ./cmd/tradewind-gateway

demo: build ## three regions on this machine: discover, federate, split, drain, kill, heal, deny (ARGS="--once -o json" runs it unattended)
	@bin/tradewind demo $(ARGS)

test: ## run the tests (no root, no network); what needs root or real programs is in e2e
	$(GO) vet ./...
	$(GO) test $(TESTFLAGS) $$($(GO) list ./... | grep -v /e2e)

race: ## run the tests under the race detector (needs a C compiler)
	$(GO) test -race $(TESTFLAGS) $$($(GO) list ./... | grep -v /e2e)

lint: ## formatting, vet and the linters of .golangci.yml (fetched as a Go module)
	@out=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$out" ] || { echo "not formatted: $$out"; exit 1; }
	$(GO) vet ./...
	$(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.12.2 run

fuzz: ## fuzz every decoder, FUZZTIME each (default 30s)
	@for pkg in $$($(GO) list ./...); do \
	  for target in $$($(GO) test -list '^Fuzz' $$pkg 2>/dev/null | grep '^Fuzz'); do \
	    echo "$$pkg $$target"; $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; \
	  done; \
	done

tools: $(TOOLS) ## build the servers that tests talk to, as far as they are Go modules (15 minutes of processor time, once)

# The tools are modules of their own, so that nothing of them gets into the product's.
bin/tools/consul: TOOL := github.com/hashicorp/consul
bin/tools/consul: e2e/tools/consul/go.mod
bin/tools/etcd: TOOL := go.etcd.io/etcd/server/v3
# It refuses to be no version at all.
bin/tools/kube-apiserver: STAMP = -X k8s.io/component-base/version.gitVersion=$$($(GO) list -m -f '{{.Version}}' k8s.io/kubernetes)
bin/tools/kube-apiserver: TOOL := k8s.io/kubernetes/cmd/kube-apiserver
bin/tools/etcd bin/tools/kube-apiserver: e2e/tools/kubernetes/go.mod
bin/tools/h2spec: TOOL := github.com/summerwind/h2spec/cmd/h2spec
bin/tools/grpc-client: TOOL := google.golang.org/grpc/interop/client
bin/tools/grpc-server: TOOL := google.golang.org/grpc/interop/server
bin/tools/h2spec bin/tools/grpc-client bin/tools/grpc-server: e2e/tools/http/go.mod
bin/tools/pebble: TOOL := github.com/letsencrypt/pebble/v2/cmd/pebble
bin/tools/pebble-challtestsrv: TOOL := github.com/letsencrypt/pebble/v2/cmd/pebble-challtestsrv
bin/tools/pebble bin/tools/pebble-challtestsrv: e2e/tools/pebble/go.mod
$(TOOLS):
	cd $(<D) && CGO_ENABLED=0 nice $(GO) build -trimpath -ldflags "-s -w $(STAMP)" -o $(CURDIR)/$@ $(TOOL)
	@touch $@ # go build leaves a program alone that is up to date

e2e-kubernetes: bin/tools/etcd bin/tools/kube-apiserver ## the part of e2e that talks to a real Kubernetes API server (no root)
	$(GO) test -count=1 -timeout 10m -v -run Kubernetes ./e2e

# What checks the doubles of the clouds, and what asks them, from outside: modules of their own. The product's dependencies move on, so
# their go.mod may.
DOUBLES := googleapi godiscover

e2e-doubles: ## the doubles of the clouds against Google's documents, and retry_join against go-discover (no root)
	@for d in $(DOUBLES); do (cd e2e/tools/$$d && GOFLAGS=-mod=mod $(GO) test -count=1 -v .) || exit 1; done

e2e: build e2e-doubles ## real programs in three network namespaces (root; says what it misses otherwise)
	$(GO) test -count=1 -p 1 -timeout 25m -v ./e2e/... # one room at a time: they measure

# What the benchmark compares with. Their services are of no use here; on a machine where they must not start, install them first.
BENCH_PACKAGES := haproxy nginx-light libnginx-mod-stream wrk iproute2

bench: build ## compare with haproxy, nginx and yardsticks, on loopback and over bad links (root, Debian, 25 min)
	@dpkg -s $(BENCH_PACKAGES) >/dev/null 2>&1 || { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $(BENCH_PACKAGES); }
	@$(GO) build -trimpath -o bin/tradewind-bench ./e2e/bench
	@bin/tradewind-bench -out e2e/bench/results.json $(ARGS)

bench-quick: build ## compare with the yardsticks of the tree on loopback (no root, 150 s); the last line is JSON
	@$(GO) build -trimpath -o bin/tradewind-bench ./e2e/bench
	@bin/tradewind-bench -quick $(ARGS)

kills: build ## 200 kill -9 of a gateway's store under write load; prints the acknowledged writes lost
	TRADEWIND_KILLS=200 $(GO) test -count=1 -timeout 30m -v -run Kill ./federation/store/... ./e2e/...

simulate: ## many seeds of the catalog exchange between five regions (TRADEWIND_SEEDS, default 2000)
	TRADEWIND_SEEDS=$${TRADEWIND_SEEDS:-2000} $(GO) test -count=1 -timeout 60m -v -run '^(TestWorlds|TestSameSeedSameHistory)$$' ./federation/exchange/

man: build ## write the manual pages to man/
	@mkdir -p man && bin/tradewind man man && ls man | wc -l

# A gateway that grows past this has taken in a library whole, most likely because a client of an SDK was made an interface: the
# linker then keeps every method of it.
MAX_GATEWAY := 45000000
MAX_WITHOUT_KUBERNETES := 40000000

size: ## the gateway's size is within its limits, with and without Kubernetes, and no SDK is linked whole
	@mkdir -p bin/size
	@CGO_ENABLED=0 $(GO) build -trimpath -tags $(TAGS) -ldflags '$(LDFLAGS)' -o bin/size/all ./cmd/tradewind-gateway
	@CGO_ENABLED=0 $(GO) build -trimpath -tags $(TAGS),no_kubernetes -ldflags '$(LDFLAGS)' -o bin/size/without ./cmd/tradewind-gateway
	@CGO_ENABLED=0 $(GO) build -trimpath -tags $(TAGS) -o bin/size/symbols ./cmd/tradewind-gateway
	@all=$$(stat -c %s bin/size/all) without=$$(stat -c %s bin/size/without); \
	  echo "gateway: $$all octets, without Kubernetes $$without"; \
	  [ $$all -le $(MAX_GATEWAY) ] && [ $$without -le $(MAX_WITHOUT_KUBERNETES) ] || { echo "it is too large"; exit 1; }
	@! $(GO) tool nm bin/size/symbols | grep -F 'ec2.(*Client).RunInstances' || { echo "the SDK of EC2 is linked whole"; exit 1; }
	@for tags in no_aws no_azure no_gcp no_consul no_dns no_kubernetes; do $(GO) vet -tags $$tags ./internal/agent || exit 1; done

check: lint test size ## what a change must pass before it is proposed

clean: ## remove what was built
	rm -rf bin man
