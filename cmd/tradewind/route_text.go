package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tradewind-mesh/tradewind/federation"
)

// matchesText says which requests any of list means.
func matchesText(list []federation.HTTPMatch) string {
	if len(list) == 0 {
		return "every request"
	}
	words := make([]string, len(list))
	for i, m := range list {
		words[i] = matchText(m)
	}
	return strings.Join(words, " or ")
}

// matchText says which requests m means: "GET,HEAD /api/... x-canary=1".
func matchText(m federation.HTTPMatch) string {
	var words []string
	add := func(prefix, value string) {
		if value != "" {
			words = append(words, prefix+value)
		}
	}
	add("", strings.Join(m.Methods, ","))
	add("host ", strings.Join(m.Hosts, ","))
	add("", m.Path)
	if m.PathPrefix != "" {
		words = append(words, strings.TrimSuffix(m.PathPrefix, "/")+"/...")
	}
	add("", m.PathTemplate)
	add("grpc ", m.GRPC)
	for _, f := range m.Headers {
		words = append(words, fieldText("header", f))
	}
	for _, f := range m.Query {
		words = append(words, fieldText("query", f))
	}
	if len(words) == 0 {
		return "every request"
	}
	return strings.Join(words, " ")
}

// permissionText is matchText with what the request's tokens must claim and the start of the expression:
// "/admin/... claim idp realm.roles=admin|owner when request.host ...".
func permissionText(p federation.Permission) string {
	words := []string{matchText(p.HTTPMatch)}
	for _, c := range p.Claims {
		word := "claim " + c.Provider
		if len(c.Path) > 0 {
			word += " " + strings.Join(c.Path, ".")
		}
		if len(c.Any) > 0 {
			word += "=" + strings.Join(c.Any, "|")
		}
		words = append(words, word)
	}
	if p.When != "" {
		const shown = 60 // runes: it stands in a table
		text := []rune(strings.Join(strings.Fields(p.When), " "))
		if len(text) > shown {
			text = append(text[:shown-3], []rune("...")...)
		}
		words = append(words, "when "+string(text))
	}
	return strings.Join(words, " ")
}

func fieldText(what string, f federation.FieldMatch) string {
	switch {
	case f.Absent:
		return what + " without " + f.Name
	case len(f.Exact) > 0:
		return what + " " + f.Name + "=" + strings.Join(f.Exact, "|")
	case f.Prefix != "":
		return what + " " + f.Name + "=" + f.Prefix + "..."
	}
	return what + " " + f.Name
}

// doesText says what r does.
func doesText(r *federation.RouteRule) string {
	var words []string
	switch {
	case r.Redirect != nil:
		words = append(words, "redirect to "+redirectText(r.Redirect))
	case r.Respond != nil:
		words = append(words, fmt.Sprintf("respond with %d", r.Respond.Status))
	case len(r.Split) > 0:
		words = append(words, "split "+splitText(r.Split))
	default:
		words = append(words, "forward")
	}
	if w := r.Rewrite; w != nil {
		words = append(words, "rewrite "+placeText(w.Host, w.Path, w.PathPrefix))
	}
	words = append(words, editText("request", r.Request)...)
	words = append(words, editText("response", r.Response)...)
	for _, t := range []struct {
		what string
		d    federation.Duration
	}{{"timeout", r.Timeout}, {"each try", r.TryTimeout}, {"idle", r.IdleTimeout}} {
		if t.d > 0 {
			words = append(words, t.what+" "+t.d.String())
		}
	}
	switch t := r.Retry; {
	case t != nil && t.Attempts == 0 && len(t.On) == 0 && t.Hedge == nil:
		words = append(words, "no retry")
	case t != nil:
		words = append(words, "at most "+count(cmp.Or(t.Attempts, federation.DefaultRetry().Attempts), "retry"))
	}
	if r.Retry != nil && r.Retry.Hedge != nil {
		after, _ := r.Retry.Hedge.After.MarshalText() // never fails
		words = append(words, "hedge after "+string(after))
	}
	if r.Priority != nil {
		words = append(words, fmt.Sprintf("priority %d", *r.Priority))
	}
	for _, l := range r.RateLimits {
		words = append(words, fmt.Sprintf("at most %s for each %s", l.Rate, l.Per))
	}
	if m := r.Mirror; m != nil {
		share := m.Percent
		if share == 0 {
			share = 100
		}
		words = append(words, fmt.Sprintf("mirror %s%% to %s", percent(share), m.Service))
	}
	if f := r.Fault; f != nil {
		if f.Delay > 0 {
			words = append(words, fmt.Sprintf("delay %s%% by %s", percent(f.DelayPercent), f.Delay))
		}
		if f.Abort > 0 {
			words = append(words, fmt.Sprintf("abort %s%% with %d", percent(f.AbortPercent), f.Abort))
		}
	}
	return strings.Join(words, ", ")
}

func redirectText(r *federation.Redirect) string {
	status := r.Status
	if status == 0 {
		status = 302
	}
	place := placeText(r.Host, r.Path, r.PathPrefix)
	if r.Scheme != "" {
		place = strings.TrimSpace("scheme " + r.Scheme + " " + place)
	}
	return fmt.Sprintf("%s (%d)", place, status)
}

// placeText says what a rewrite or a redirect puts in the place of a request's parts.
func placeText(host, path, prefix string) string {
	var words []string
	for _, part := range [][2]string{{"host", host}, {"path", path}, {"prefix", prefix}} {
		if part[1] != "" {
			words = append(words, part[0]+" "+part[1])
		}
	}
	return strings.Join(words, " ")
}

func splitText(splits []federation.Split) string {
	var sum float64
	for _, s := range splits {
		sum += float64(s.Weight)
	}
	words := make([]string, len(splits))
	for i, s := range splits {
		to := "itself"
		if !s.Service.IsZero() {
			to = s.Service.String()
		}
		if s.Subset != "" {
			to += " subset " + s.Subset
		}
		if s.Region != "" {
			to += " first in " + string(s.Region)
		}
		words[i] = fmt.Sprintf("%s%% %s", percent(100*float64(s.Weight)/max(sum, 1)), to)
	}
	return strings.Join(words, ", ")
}

func editText(of string, e *federation.HeaderEdit) []string {
	if e == nil {
		return nil
	}
	var words []string
	if len(e.Remove) > 0 {
		words = append(words, of+" without "+strings.Join(e.Remove, " "))
	}
	for _, set := range []map[string]string{e.Set, e.Add} {
		for _, name := range slices.Sorted(maps.Keys(set)) {
			words = append(words, fmt.Sprintf("%s %s: %s", of, name, set[name]))
		}
	}
	return words
}
