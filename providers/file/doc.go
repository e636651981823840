// Package file is the source of instances that are written in JSON files: one file, or all *.json files of a directory. It is
// the way for whatever writes files, such as configuration management or a Kubernetes ConfigMap.
//
//	{"instances": [
//	  {"service": "shop/cart", "address": "192.0.2.10:8080", "id": "cart-1",
//	   "locality": {"zone": "eu-1a"}, "checks": [{"kind": "http", "path": "/healthz"}]}
//	]}
//
// The id may be left out; then it is the address. An unknown field is an error, and errors name file, line and column. Files
// are read again when the operating system says that they changed, and every five seconds in case it does not. A set takes
// effect whole or not at all: while any file cannot be read or is not valid, the last valid set stays in use and the
// reason is shown. Files may be replaced by rename, written in place, or reached through symbolic links that are swapped.
package file
