package controlplane

import (
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/when"
)

func conditional(text, token string) federation.Resource {
	return resource(federation.KindIntention, "a", &federation.Intention{Source: "client", Destination: "web", Action: federation.Allow,
		HTTP: []federation.Permission{{HTTPMatch: federation.HTTPMatch{Path: "/x"}}, {When: text, Token: token}}})
}

func TestExpressionsAreReadBeforeTheyAreTaken(t *testing.T) {
	r := newRegion(t, nil)
	bad := conditional("request.method == 'GET' &&\n  request.headers['x-role'] == 1", "")
	bad.Source = "shop.hcl:12"
	_, err := r.Apply(t.Context(), put("cli", bad))
	const want = `TW-7009 shop.hcl:12: intention "a" is not valid: when of http block 2: line 2, column 29: ` +
		`found no matching overload for '==' applied to '(string, int)' (fix: compare values of one type; int(), double() and string() convert)`
	if federation.CodeOf(err) != when.CodeExpression || err.Error() != want {
		t.Errorf("%v\nwant %s", err, want)
	}
	if len(r.List()) != 0 {
		t.Errorf("the region has %v", keys(r.List()))
	}
	for _, refused := range []struct {
		put  federation.Resource
		want string
	}{
		{conditional("true", strings.Repeat("x", 100)), "token of jwt"}, {conditional("", "idp"), "token names whose token"},
		{conditional(strings.Repeat(" ", federation.MaxWhen+1), ""), "when has 4097 octets"},
		{conditional("token.issuer == ''", ""), "does not say whose"},
	} {
		if _, err := r.Apply(t.Context(), put("cli", refused.put)); err == nil || !strings.Contains(err.Error(), refused.want) {
			t.Errorf("%v, want %s", err, refused.want)
		}
	}
	many := conditional("true", "")
	i := &federation.Intention{Source: "client", Destination: "web", Action: federation.Allow}
	for range 33 {
		i.HTTP = append(i.HTTP, federation.Permission{When: "true"})
	}
	many.Spec = i
	if _, err := r.Apply(t.Context(), put("cli", many)); err == nil || !strings.Contains(err.Error(), `33 http blocks with "when"`) {
		t.Errorf("%v", err)
	}
}

func TestAChangeOfAnExpressionIsShown(t *testing.T) {
	r := newRegion(t, nil)
	before, after := conditional("request.method == 'GET'", ""), conditional("token.claims.admin == true", "idp")
	if _, err := r.Apply(t.Context(), put("cli", before)); err != nil {
		t.Fatal(err)
	}
	plan, err := r.Plan(t.Context(), put("cli", after))
	if err != nil {
		t.Fatal(err)
	}
	want := []FieldChange{{"http[1].token", "", `"idp"`}, {"http[1].when", `"request.method == 'GET'"`, `"token.claims.admin == true"`}}
	if diff := gocmp.Diff(want, plan.Steps[0].Diff()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(plan.Warnings) == 0 || plan.Warnings[len(plan.Warnings)-1].Code != WarnTokens {
		t.Errorf("nobody says that there is no such provider: %v", plan.Warnings)
	}
}
