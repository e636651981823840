// Package config reads what people write: gateway.hcl, which configures one process, and resource files, which declare the
// region's services, exports, intentions, resolvers and upstreams. Both are HCL (or JSON) and strict: an unknown key is an error
// with its file, line, snippet and a suggestion, and all errors of all files are reported at once. The package starts nothing.
package config
