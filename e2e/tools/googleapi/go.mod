module github.com/tradewind-mesh/tradewind/e2e/tools/googleapi

go 1.26

require google.golang.org/api v0.305.0
