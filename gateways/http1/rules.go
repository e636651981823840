package http1

// Rules are what a Reader accepts beyond the fixed rules of the package. The zero value is the strictest.
type Rules struct {
	MaxHead      int // octets of a head with its start line; 0: 64 KiB, four times what browsers and common servers send
	MaxStartLine int // octets of a request or status line; 0: 16 KiB, RFC 9112 3 asks for 8000 at least
	MaxFields    int // fields of a head or a trailer section; 0: 128, the busiest browsers send about 40

	AllowEncodedSlash bool // %2F and %5C stay in the path as they are; an instance may take them for slashes
	AllowEmptySegment bool // "//" stays in the path as it is; an instance may take it for one slash
	AllowUnderscore   bool // "_" in the names of a request's fields; an instance (CGI, WSGI) may take it for "-"
}

const (
	maxTrailer   = 8 << 10 // octets of a trailer section: what gRPC and checksums need is below 1 KiB
	maxExtension = 256     // octets of extensions of one chunk; nothing in use needs any, signed chunks of S3 need 85
	maxAllExt    = 8 << 10 // octets of extensions of one body, or a peer makes us read much that nobody gets (CVE-2023-39326)
	maxInterim   = 8       // 1xx responses before the final one; net/http allows 5
	maxHost      = 255 + 6 // RFC 1035 2.3.4, and a port

	// DrainLimit is how much of an unread body Reader.Drain reads to save the connection: more costs more than a new connection.
	DrainLimit = 256 << 10
)

func (r Rules) withDefaults() Rules {
	if r.MaxHead <= 0 {
		r.MaxHead = 64 << 10
	}
	if r.MaxStartLine <= 0 {
		r.MaxStartLine = 16 << 10
	}
	if r.MaxFields <= 0 {
		r.MaxFields = 128
	}
	return r
}

// Error says why a message was refused.
type Error struct {
	Status int    // what to answer: 400, 414, 417, 431, 501 or 505 to a request, 502 for a response, 500 for one of ours
	Reason string // a word that stays the same between versions, for logs and metrics
}

func (e *Error) Error() string { return "http1: message refused: " + e.Reason }

func bad(reason string) error { return &Error{400, reason} }

// ofResponse is err for a response: whatever is wrong with it, the caller is told that the instance is to blame.
func ofResponse(err error) error {
	if e, ok := err.(*Error); ok { //nolint:errorlint // nothing here wraps a refusal
		return &Error{502, e.Reason}
	}
	return err
}
