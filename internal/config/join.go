package config

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/hashicorp/hcl/v2"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/peering"
)

// Peer is what gateway.hcl says of a peer: where its gateways are found. The peering itself is made by a token.
type Peer struct {
	Region    federation.Region
	RetryJoin []Join // at least one
}

// Join is one entry of retry_join.
type Join struct {
	Text    string            // as written
	Address string            // "host:port"; empty: Words say whom to ask
	Words   map[string]string // as go-discover reads them, "provider" among them
	Port    string            // of the gateways that are found
}

type peerBlock struct {
	Region    string    `hcl:"region,label"`
	At        hcl.Range `hcl:",def_range"`
	RetryJoin []string  `hcl:"retry_join"`
}

// MeshPort is the port of gateways that name none.
const MeshPort = "8443"

// maxJoins bounds what one peer's entries make the gateway ask.
const maxJoins = 16

func (b *builder) peers(g *Gateway, raw []peerBlock) {
	for _, p := range raw {
		at := p.At
		wrong := func(err error) {
			if err != nil {
				b.diags = append(b.diags, problem(fmt.Sprintf("Invalid peer %q", p.Region), err, &at))
			}
		}
		region, err := federation.ParseRegion(p.Region)
		wrong(err)
		if region == g.Region {
			wrong(errors.New("this is the gateway's own region"))
		}
		if slices.ContainsFunc(g.Peers, func(o Peer) bool { return o.Region == region }) {
			wrong(errors.New("another block names the same peer"))
		}
		if len(p.RetryJoin) == 0 || len(p.RetryJoin) > maxJoins {
			wrong(fmt.Errorf("retry_join has %d entries: 1 to %d are allowed", len(p.RetryJoin), maxJoins))
		}
		out := Peer{Region: region}
		for _, text := range p.RetryJoin {
			j, err := ParseJoin(text)
			if err != nil {
				wrong(fmt.Errorf("retry_join %q: %w", text, err))
			}
			out.RetryJoin = append(out.RetryJoin, j)
		}
		g.Peers = append(g.Peers, out)
	}
}

// joinWords are the words of each provider besides "provider" and "port", as go-discover has them, with those of our own: label_key and
// label_value, role_arn and external_id, and addr_type and endpoint everywhere.
var joinWords = map[string][]string{
	"aws":   {"region", "tag_key", "tag_value", "addr_type", "role_arn", "external_id", "endpoint"},
	"gce":   {"project_name", "zone_pattern", "tag_value", "label_key", "label_value", "addr_type", "credentials_file", "endpoint"},
	"azure": {"subscription_id", "resource_group", "tag_name", "tag_value", "addr_type", "environment", "endpoint"},
}

// secretWords are go-discover's words for credentials, which have no place in a file that is passed around.
var secretWords = []string{"access_key_id", "secret_access_key", "session_token", "tenant_id", "client_id"}

// ParseJoin reads an entry of retry_join: an address, or words in go-discover's syntax.
func ParseJoin(text string) (Join, error) {
	j := Join{Text: text, Port: MeshPort}
	if !strings.Contains(text, "=") {
		j.Address = strings.TrimSpace(text)
		if _, _, err := net.SplitHostPort(j.Address); err != nil {
			j.Address = net.JoinHostPort(strings.Trim(j.Address, "[]"), MeshPort)
		}
		return j, peering.CheckAddress(j.Address)
	}
	words, err := parseWords(text)
	if err != nil {
		return j, err
	}
	known := joinWords[words["provider"]]
	if known == nil {
		return j, fmt.Errorf("provider %q is unknown: use %s, or an address", words["provider"], strings.Join(sortedKeys(joinWords), ", "))
	}
	for _, w := range sortedKeys(words) {
		switch {
		case w == "provider", w == "port", slices.Contains(known, w):
		case slices.Contains(secretWords, w):
			return j, fmt.Errorf("%s: credentials do not belong here: give the gateway a role, or the SDK's environment variables", w)
		default:
			return j, fmt.Errorf("%s is unknown: provider=%s takes %s and port", w, words["provider"], strings.Join(known, ", "))
		}
	}
	j.Port = cmp.Or(words["port"], MeshPort)
	if n, err := strconv.ParseUint(j.Port, 10, 16); err != nil || n == 0 {
		return j, fmt.Errorf("port %q: write a number from 1 to 65535", j.Port)
	}
	delete(words, "port")
	j.Words = words
	return j, nil
}

// parseWords reads "key=value key=\"a value\"". Keys and values with spaces, backslashes, quotes or equals signs are quoted.
func parseWords(text string) (map[string]string, error) {
	words := map[string]string{}
	for rest := strings.TrimLeft(text, " "); rest != ""; rest = strings.TrimLeft(rest, " ") {
		key, after, err := word(rest)
		switch {
		case err != nil:
			return nil, err
		case key == "" || !strings.HasPrefix(after, "="):
			return nil, fmt.Errorf("%q is not of the form key=value", clip(rest))
		}
		value, after, err := word(after[1:])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		if value == "" || after != "" && after[0] != ' ' {
			return nil, fmt.Errorf("%s: the value is missing, or needs quotes", key)
		}
		if _, twice := words[key]; twice {
			return nil, fmt.Errorf("%s is there twice", key)
		}
		words[key], rest = value, after
	}
	return words, nil
}

// word splits the first word off text.
func word(text string) (first, rest string, err error) {
	if !strings.HasPrefix(text, `"`) {
		end := strings.IndexAny(text, ` ="\`)
		if end < 0 {
			end = len(text)
		}
		return text[:end], text[end:], nil
	}
	quoted, err := strconv.QuotedPrefix(text)
	if err == nil {
		first, err = strconv.Unquote(quoted)
	}
	if err != nil || strings.ContainsFunc(first, unicode.IsControl) {
		return "", "", fmt.Errorf("%q is not closed, or quotes what is no text", clip(text))
	}
	return first, text[len(quoted):], nil
}

// clip shortens what somebody wrote for a message.
func clip(s string) string { return s[:min(len(s), 64)] }
