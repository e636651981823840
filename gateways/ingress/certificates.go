package ingress

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

const (
	maxPairs   = 10_000  // of one tls block: more names than a gateway serves
	maxPEM     = 1 << 20 // octets of one file; a chain has some 10 KiB
	warnBefore = 7 * 24 * time.Hour
)

// index finds a certificate by server name.
type index struct {
	exact    map[string][]*tls.Certificate
	wildcard map[string][]*tls.Certificate // of "*.example.com": example.com
	ordered  map[string]*tls.Certificate   // from an authority, where no file has one
}

// find returns a certificate for the name that is asked for, one that the caller understands if there is such, or nil.
func (x *index) find(hello *tls.ClientHelloInfo) *tls.Certificate {
	list := x.of(strings.ToLower(hello.ServerName))
	for _, c := range list {
		if hello.SupportsCertificate(c) == nil {
			return c
		}
	}
	if len(list) > 0 {
		return list[0]
	}
	return nil
}

// of returns the certificates for a name. A wildcard stands for one label (RFC 6125 6.4.3).
func (x *index) of(name string) []*tls.Certificate {
	if name == "" {
		return nil
	}
	if list := x.exact[name]; len(list) > 0 {
		return list
	}
	_, parent, _ := strings.Cut(name, ".")
	if list := x.wildcard[parent]; len(list) > 0 {
		return list
	}
	if c := x.ordered[name]; c != nil {
		return []*tls.Certificate{c}
	}
	return nil
}

// covers reports whether there is a certificate for a host of an ingress: for its name, or for every name right below it.
func (x *index) covers(host string) bool {
	if parent, found := strings.CutPrefix(host, "*."); found {
		return len(x.wildcard[parent]) > 0
	}
	return len(x.of(host)) > 0
}

// newIndex is the index of the certificates of sources, those that end last first, and of what was ordered.
func newIndex(sources []*source, ordered map[string]*tls.Certificate) *index {
	var all []*tls.Certificate
	for _, s := range sources {
		for _, path := range slices.Sorted(maps.Keys(s.pairs)) {
			if c := s.pairs[path].certificate; c != nil {
				all = append(all, c)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b *tls.Certificate) int { return b.Leaf.NotAfter.Compare(a.Leaf.NotAfter) })
	x := &index{exact: map[string][]*tls.Certificate{}, wildcard: map[string][]*tls.Certificate{}, ordered: ordered}
	for _, c := range all {
		for _, name := range c.Leaf.DNSNames {
			name = strings.ToLower(name)
			if parent, found := strings.CutPrefix(name, "*."); found {
				x.wildcard[parent] = append(x.wildcard[parent], c)
			} else {
				x.exact[name] = append(x.exact[name], c)
			}
		}
	}
	return x
}

// source is the certificates of one tls block.
type source struct {
	spec    federation.IngressTLS
	pairs   map[string]*pair // by the certificate's file
	problem error            // with the block as a whole
}

// pair is a certificate and its key, as they were read last.
type pair struct {
	key         string
	seen        [2]stamp // of certificate and key, when they were read
	certificate *tls.Certificate
	problem     error
}

// stamp is what changes with a file. The inode is in it, since a file that was replaced may have the size and the time of the old one.
type stamp struct{ info os.FileInfo }

func (s stamp) same(t stamp) bool {
	return s.info != nil && t.info != nil && os.SameFile(s.info, t.info) && s.info.Size() == t.info.Size() &&
		s.info.ModTime().Equal(t.info.ModTime())
}

// look reads what has changed, and reports whether anything has.
func (s *source) look() (changed bool) {
	files, err := s.files()
	s.problem = err
	if err != nil { // what was read stays
		return false
	}
	for path := range s.pairs {
		if _, still := files[path]; !still {
			delete(s.pairs, path)
			changed = true
		}
	}
	for path, key := range files {
		p := s.pairs[path]
		if p == nil {
			p = &pair{}
			s.pairs[path] = p
		}
		changed = p.look(path, key) || changed
	}
	return changed
}

// files returns the files of the certificates with those of their keys.
func (s *source) files() (map[string]string, error) {
	if !strings.Contains(s.spec.Certificate, "*") {
		return map[string]string{s.spec.Certificate: s.spec.Key}, nil
	}
	dir, pattern := filepath.Split(s.spec.Certificate)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list the certificates: %w", err)
	}
	before, after, _ := strings.Cut(pattern, "*")
	files := map[string]string{}
	for _, e := range entries {
		name := e.Name()
		if e.IsDir() || strings.HasPrefix(name, ".") || len(name) < len(before)+len(after) || !strings.HasPrefix(name, before) ||
			!strings.HasSuffix(name, after) {
			continue
		}
		if len(files) == maxPairs {
			return nil, fmt.Errorf("list the certificates: %s holds more than %d", dir, maxPairs)
		}
		files[dir+name] = strings.ReplaceAll(s.spec.Key, "*", name[len(before):len(name)-len(after)])
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no file is called %s", s.spec.Certificate)
	}
	return files, nil
}

// look reads the pair if it has changed. A pair that cannot be read leaves the one before it in use.
func (p *pair) look(path, key string) (changed bool) {
	var now [2]stamp
	for i, file := range []string{path, key} {
		info, err := os.Stat(file)
		if err != nil {
			p.problem, p.seen = err, [2]stamp{} // when it is back it is read, whatever it looks like
			return false
		}
		now[i] = stamp{info}
	}
	if p.key == key && p.seen[0].same(now[0]) && p.seen[1].same(now[1]) {
		return false
	}
	c, err := loadPair(path, key)
	p.key, p.seen, p.problem = key, now, err
	if err != nil {
		return false
	}
	p.certificate = c
	return true
}

func loadPair(path, key string) (*tls.Certificate, error) {
	var blocks [2][]byte
	for i, file := range []string{path, key} {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		blocks[i], err = io.ReadAll(io.LimitReader(f, maxPEM))
		_ = f.Close()
		if err != nil {
			return nil, err
		}
	}
	c, err := tls.X509KeyPair(blocks[0], blocks[1])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(c.Leaf.DNSNames) == 0 {
		return nil, fmt.Errorf("%s: %w", path, errors.New("the certificate is for no host name"))
	}
	return &c, nil
}

// problems is what is wrong with the certificates of g, for people.
func (s *source) problems(g *federation.Ingress, now time.Time) []*federation.Diagnostic {
	var list []*federation.Diagnostic
	unusable := func(err error, inUse bool) {
		what := fmt.Sprintf("a certificate of ingress %q cannot be used", g.Name)
		if inUse {
			what = fmt.Sprintf("a new certificate of ingress %q cannot be used; the last one is", g.Name)
		}
		list = append(list, &federation.Diagnostic{Code: federation.CodeIngressCertificate, What: what, Why: err.Error(), Err: err,
			Fix: "put a certificate chain and its key there, in PEM, readable by the gateway's user"})
	}
	if s.problem != nil {
		unusable(s.problem, len(s.pairs) > 0)
	}
	for _, path := range slices.Sorted(maps.Keys(s.pairs)) {
		p := s.pairs[path]
		if p.problem != nil {
			unusable(p.problem, p.certificate != nil)
		}
		if p.certificate != nil {
			if d := expires(g, path, p.certificate.Leaf, now); d != nil {
				list = append(list, d)
			}
		}
	}
	return list
}

func expires(g *federation.Ingress, path string, leaf *x509.Certificate, now time.Time) *federation.Diagnostic {
	if now.Add(warnBefore).Before(leaf.NotAfter) {
		return nil
	}
	verb := "ends"
	if now.After(leaf.NotAfter) {
		verb = "has ended"
	}
	return &federation.Diagnostic{Code: federation.CodeIngressExpired,
		What: fmt.Sprintf("a certificate of ingress %q %s %s", g.Name, verb, leaf.NotAfter.UTC().Format(time.RFC3339)),
		Why:  fmt.Sprintf("%s, for %s", path, cmp.Or(strings.Join(leaf.DNSNames, ", "), leaf.Subject.String())), Fix: "renew it and replace the files"}
}
