package http1

import (
	"net/http"
	"strings"
)

// endToEnd reports whether a field must not be named in Connection: what it names is taken out before the message is forwarded, and
// these decide what the message means or who sent it (RFC 9110 7.6.1; CVE-2022-31813 is such a removal). The name is canonical.
func endToEnd(name string) bool {
	switch name {
	case "Host", "Content-Length", "Transfer-Encoding", "Content-Type", "Content-Encoding", "Content-Range", "Content-Location",
		"Authorization", "Www-Authenticate", "Cookie", "Set-Cookie", "Cache-Control", "Expect", "Forwarded", "Origin", "Range",
		"Location", "Vary", "Via", "X-Real-Ip", "Traceparent", "Tracestate":
		return true
	}
	return strings.HasPrefix(name, "X-Forwarded-") || strings.HasPrefix(name, "If-") || strings.HasPrefix(name, "Sec-")
}

// notInTrailer reports whether a field, beside those of endToEnd, must not come in a trailer section: what is decided when the head
// has come must not change later (RFC 9110 6.5.1). The name is canonical.
func notInTrailer(name string) bool {
	switch name {
	case "Connection", "Keep-Alive", "Te", "Trailer", "Upgrade", "Http2-Settings", "Max-Forwards", "Pragma", "Age", "Expires",
		"Date", "Retry-After", "Warning":
		return true
	}
	return strings.HasPrefix(name, "Proxy") || strings.HasPrefix(name, "Accept") || strings.HasPrefix(name, "Access-Control-")
}

// StripHopByHop takes out of h what concerns one connection only (RFC 9110 7.6.1): the fields that Connection names, Connection
// itself, Keep-Alive, everything for a proxy, HTTP2-Settings, and TE but for "trailers". Upgrade stays only if upgrade says that it
// is accepted, see UpgradeProtocol. "Proxy" goes as well: CGI makes it the proxy of an instance (CVE-2016-5385). The error is an
// *Error: Connection names a field that it must not; a Reader has refused such a message already.
func StripHopByHop(h http.Header, upgrade bool) error {
	for _, value := range h["Connection"] {
		for token := range strings.SplitSeq(value, ",") {
			token = strings.Trim(token, " \t")
			if equalFold(token, "keep-alive") { // most often; it goes anyway
				continue
			}
			name := http.CanonicalHeaderKey(token)
			switch {
			case endToEnd(name):
				return bad("connection-names-protected")
			case name == "Te" || name == "Upgrade":
			default:
				delete(h, name)
			}
		}
	}
	trailers := false
	for _, value := range h["Te"] {
		for coding := range strings.SplitSeq(value, ",") {
			trailers = trailers || equalFold(strings.Trim(coding, " \t"), "trailers")
		}
	}
	if trailers {
		h["Te"] = trailersOnly
	} else {
		delete(h, "Te")
	}
	if !upgrade {
		delete(h, "Upgrade")
	}
	for _, name := range hopByHop {
		delete(h, name)
	}
	return nil
}

// trailersOnly has no room behind it: an append makes a copy.
var trailersOnly = []string{"trailers"}

var hopByHop = []string{
	"Connection", "Keep-Alive", "Proxy", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization",
	"Proxy-Authentication-Info", "Http2-Settings",
}

// UpgradeProtocol returns the protocol that h, not stripped yet, asks for: exactly one, which is not another version of HTTP or TLS,
// in which requests would pass without being judged. "": none.
func UpgradeProtocol(h http.Header) string {
	if len(h["Upgrade"]) != 1 {
		return ""
	}
	named := false
	for _, value := range h["Connection"] {
		for token := range strings.SplitSeq(value, ",") {
			named = named || equalFold(strings.Trim(token, " \t"), "upgrade")
		}
	}
	protocol := h["Upgrade"][0]
	name, version, versioned := strings.Cut(protocol, "/")
	if !named || !isToken(name) || versioned && !isToken(version) {
		return ""
	}
	if equalFold(name, "h2c") || equalFold(name, "h2") || equalFold(name, "http") || equalFold(name, "tls") {
		return ""
	}
	return protocol
}

// ExpectsContinue reports whether the caller waits for 100 (Continue) before it sends the body.
func ExpectsContinue(r *http.Request) bool { return len(r.Header["Expect"]) > 0 }
