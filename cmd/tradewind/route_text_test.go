package main

import (
	"testing"

	"github.com/tradewind-mesh/tradewind/federation"
)

func TestPermissionText(t *testing.T) {
	for _, test := range []struct {
		of   federation.Permission
		want string
	}{
		{federation.Permission{}, "every request"},
		{federation.Permission{HTTPMatch: federation.HTTPMatch{Path: "/a"}, When: "request.host ==\n  'é'"}, "/a when request.host == 'é'"},
		{federation.Permission{Claims: []federation.ClaimMatch{{Provider: "idp", Path: []string{"a", "b"}, Any: []string{"c", "d"}}},
			When: `request.headers["x-tenant"] == token.claims.tenant && "é" in token.claims.roles`},
			`every request claim idp a.b=c|d when request.headers["x-tenant"] == token.claims.tenant && "é"...`},
	} {
		if got := permissionText(test.of); got != test.want {
			t.Errorf("%q, want %q", got, test.want)
		}
	}
}
