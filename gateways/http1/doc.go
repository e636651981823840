// Package http1 reads and writes HTTP/1.1 messages (RFC 9110, RFC 9112) for a gateway: from its callers, and from the instances behind
// it. A message is read strictly, brought into one canonical form, and written anew from that, so that what a rule judges is what an
// instance gets, and that an instance reads it in one way only. It has no goroutine and sets no deadline.
//
// What is refused, with the status of the answer (for a response always 502) and the reason. Whatever is refused, the connection
// cannot carry another message.
//
//	lines     end with CRLF; none is empty in front of a message   400 bare-lf, bare-cr, start-line
//	          one space between the parts, HTTP/1.0 or 1.1         400 start-line, 505 version
//	          at most 16 KiB for the first, 64 KiB for the head    414 start-line-length, 431 head-length
//	method    a token; a known one in capitals                     400 method
//	target    "/path", "http(s)://host/path", "host:port" for      400 target-form, target-character, fragment
//	          CONNECT, "*" for OPTIONS; characters of RFC 3986
//	path      escapes are whole; of no control character           400 escape, encoded-control
//	          no slash or backslash in escapes (*)                 400 encoded-slash, backslash
//	          no segment "." or "..", also with ";parameters"      400 dot-segment
//	          no empty segment but the last (*)                    400 empty-segment
//	          UTF-8 without its escapes                            400 path-utf8
//	host      exactly one; a name, IPv4 or [IPv6], and a port;     400 host, host-port, host-missing, host-twice,
//	          the one of the target if that has one                host-differs
//	fields    a token, then ":"; no folding; at most 128           400 field-name, field-without-colon,
//	                                                               space-before-colon, obs-fold, 431 field-count
//	          no "_" in the name (a request, *)                    400 underscore
//	          no control character but tab in the value            400 field-value
//	          one Trailer; of a request one Authorization and one   400 field-twice
//	          Content-Type
//	          Connection has tokens, none of an end-to-end field   400 connection-token, connection-names-protected
//	          Expect is 100-continue, and there is a body          417 expect, 400 expect-without-body
//	body      one Content-Length, digits, no leading zero          400 content-length, content-length-twice
//	          or one Transfer-Encoding, chunked, in HTTP/1.1       501 transfer-coding, 400 transfer-coding-twice,
//	                                                               transfer-coding-in-1.0, length-and-coding
//	          none with CONNECT, TRACE, 1xx, 204                   400 body-not-allowed
//	chunks    1 to 16 hexadecimal digits, no sign, no space        400 chunk-size, chunk-bare-lf, chunk-end
//	          extensions of 256 octets, 8 KiB in a body            400 chunk-extension, chunk-line-length
//	trailer   8 KiB, 128 fields, as above; none that matters       400 trailer-length, trailer-forbidden, trailer-name,
//	          before the body (framing, routing, credentials)      431 field-count
//	responses status 100 to 599; at most eight 1xx, none in 1.0;   status, interim-count, interim-in-1.0,
//	          101 to the protocol asked for                        upgrade-not-asked-for
//
// (*) Rules can allow it.
//
// The canonical form: field names as net/http writes them; values without white space around them; the host in lower case and
// without a dot at its end; in the path, escapes of letters, digits and "-._~" undone, once, and others with capital digits; an
// absolute target as its path. A query stays as it is; what judges it must see all of it (url.ParseQuery leaves out what has a
// semicolon, CVE-2026-39825). Chunk extensions are dropped and chunks are made anew.
//
// Underscores, encoded slashes and empty segments are refused at first, because whether they are harmless depends on the instances; what
// is allowed is forwarded unchanged and never decoded.
package http1
