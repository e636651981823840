// Package admin is the gateway's admin API: its types, its server and its client. The protocol is Connect with JSON and plain
// Go structs, so that every method is also one curl:
//
//	curl --unix-socket /var/lib/tradewind/admin.sock -H 'content-type: application/json' -d '{}' \
//	  http://tradewind/tradewind.v1.Admin/Status
//
// The server listens on a unix socket, where the kernel says who calls, and on loopback TCP, where a bearer token does. It
// never listens on anything else: who may use the API may do everything. What the gateway answers comes from the backends in
// Config; this package decides only who may ask.
package admin
