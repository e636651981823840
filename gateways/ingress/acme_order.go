package ingress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
	"go.uber.org/zap"
)

// vault orders certificates and keeps them, with the keys of accounts, in files that nobody else may read.
//
// It uses certmagic for what talks to an authority and for what is on the disk, and not for its schedule, which runs in goroutines
// that nobody can wait for and does not tell when it will do what.
type vault struct {
	*certmagic.FileStorage
	dir string

	mu      sync.Mutex
	locks   map[string]chan struct{}
	issuers map[issuerKey]*issuer // each has connections, which are kept for the next order
}

type issuerKey struct {
	account
	roots string // what ca_file holds
	way
}

type issuer struct {
	config *certmagic.Config
	acme   *certmagic.ACMEIssuer
	cache  *certmagic.Cache // never filled; certmagic wants one
}

func newVault(dir string) *vault {
	return &vault{FileStorage: &certmagic.FileStorage{Path: dir}, dir: dir,
		locks: map[string]chan struct{}{}, issuers: map[issuerKey]*issuer{}}
}

// Lock implements certmagic.Locker. The data directory belongs to this process alone, so a lock is in memory: as a file it would
// outlive a process that was killed, and the next one would wait for it.
func (v *vault) Lock(ctx context.Context, name string) error {
	select {
	case v.lock(name) <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TryLock implements certmagic.TryLocker.
func (v *vault) TryLock(_ context.Context, name string) (bool, error) {
	select {
	case v.lock(name) <- struct{}{}:
		return true, nil
	default:
		return false, nil
	}
}

// Unlock implements certmagic.Locker.
func (v *vault) Unlock(_ context.Context, name string) error {
	<-v.lock(name)
	return nil
}

func (v *vault) lock(name string) chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.locks[name] == nil {
		v.locks[name] = make(chan struct{}, 1)
	}
	return v.locks[name]
}

// load returns the certificate that was issued last, or nil without an error if there is none.
func (v *vault) load(key orderKey) (*tls.Certificate, error) {
	if v.dir == "" {
		return nil, nil
	}
	ctx := context.Background()
	at := (&certmagic.ACMEIssuer{CA: key.directory}).IssuerKey()
	chain, err := v.Load(ctx, certmagic.StorageKeys.SiteCert(at, key.name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	private, err := v.Load(ctx, certmagic.StorageKeys.SitePrivateKey(at, key.name))
	if err != nil {
		return nil, err
	}
	c, err := tls.X509KeyPair(chain, private)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	if err := c.Leaf.VerifyHostname(key.name); err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	return &c, nil
}

var (
	errDamaged = errors.New("the certificate that was kept is damaged")
	errNoDir   = errors.New("the gateway has no directory to keep certificates in")
)

// order has a certificate issued and keeps it in place of the last one.
func (v *vault) order(ctx context.Context, key orderKey, w way) error {
	is, err := v.issuer(key.account, w)
	if err != nil {
		return err
	}
	if _, err := v.load(key); errors.Is(err, errDamaged) { // by a crash between two files, or by a hand: nothing is lost
		if err := v.Delete(ctx, certmagic.StorageKeys.CertsSitePrefix(is.acme.IssuerKey(), key.name)); err != nil {
			return err
		}
	}
	return is.config.RenewCertSync(ctx, key.name, true) // orders the first one, too
}

// advice asks the authority when it wants c renewed.
func (v *vault) advice(ctx context.Context, key orderKey, w way, c *tls.Certificate) (advice, error) {
	is, err := v.issuer(key.account, w)
	if err != nil {
		return advice{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, greetTimeout)
	defer cancel()
	info, err := is.acme.GetRenewalInfo(ctx, certmagic.Certificate{Certificate: *c})
	if err != nil {
		return advice{}, err
	}
	a := advice{start: info.SuggestedWindow.Start, end: info.SuggestedWindow.End, at: info.SelectedTime, again: time.Now().Add(adviceEvery)}
	if info.RetryAfter != nil && info.RetryAfter.Before(a.again) {
		a.again = *info.RetryAfter
	}
	if soon := time.Now().Add(checkEvery / 60); a.again.Before(soon) { // whatever it says, no more than once a minute
		a.again = soon
	}
	return a, nil
}

// issuer is who orders in the name of a.
func (v *vault) issuer(a account, w way) (*issuer, error) {
	if v.dir == "" {
		return nil, errNoDir
	}
	key := issuerKey{account: a, way: w}
	var pool *x509.CertPool
	if a.caFile != "" {
		pem, err := readLimited(a.caFile)
		if err != nil {
			return nil, fmt.Errorf("read ca_file: %w", err)
		}
		if pool = x509.NewCertPool(); !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file %s holds no certificate in PEM", a.caFile)
		}
		key.roots = string(pem)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if is := v.issuers[key]; is != nil {
		return is, nil
	}
	is := &issuer{}
	is.cache = certmagic.NewCache(certmagic.CacheOptions{Logger: zap.NewNop(), RenewCheckInterval: never, OCSPCheckInterval: never,
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return is.config, nil }})
	is.config = certmagic.New(is.cache, certmagic.Config{Storage: v, Logger: zap.NewNop(), OCSP: certmagic.OCSPConfig{DisableStapling: true}})
	is.acme = certmagic.NewACMEIssuer(is.config, certmagic.ACMEIssuer{CA: a.directory, Email: a.email, Agreed: true,
		TrustedRoots: pool, Logger: zap.NewNop(),
		// Where our listeners are, certmagic finds the addresses taken and leaves the answers to who is there.
		ListenHost: w.host, AltTLSALPNPort: w.tls, AltHTTPPort: w.http, DisableHTTPChallenge: w.http == 0, DisableDistributedSolvers: true})
	is.config.Issuers = []certmagic.Issuer{is.acme}
	v.issuers[key] = is
	return is, nil
}

// never is for what certmagic does by the clock.
const never = 100 * 365 * 24 * time.Hour

// close ends what certmagic has begun.
func (v *vault) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for key, is := range v.issuers {
		is.cache.Stop()
		delete(v.issuers, key)
	}
}

func readLimited(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, maxPEM))
}

// way is where a name is proved: the ports of an address that listeners of ours have. http is 0 where none of them has clear text.
type way struct {
	host      string
	tls, http int
}

// wayOf returns where a name is proved: on the listener that wants its certificate, and on one in clear text beside it.
func (s *Server) wayOf(key orderKey) (w way, bound bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var secure, clear []netip.AddrPort
	for _, l := range s.bound {
		t := l.table.Load()
		switch at := l.tcp.Addr().(*net.TCPAddr).AddrPort(); {
		case t.proves[key.name]:
			secure = append(secure, at)
		case len(t.spec.TLS)+len(t.spec.Passthrough) == 0 && t.spec.TCP.Service.IsZero():
			clear = append(clear, at)
		}
	}
	if len(secure) == 0 {
		return way{}, false
	}
	at := first(secure)
	w = way{host: at.Addr().String(), tls: int(at.Port())}
	var beside []netip.AddrPort
	for _, c := range clear {
		if c.Addr() == at.Addr() || c.Addr().IsUnspecified() || at.Addr().IsUnspecified() {
			beside = append(beside, c)
		}
	}
	if len(beside) > 0 {
		w.http = int(first(beside).Port())
	}
	return w, true
}

// first prefers the lowest port, which is where authorities come to.
func first(list []netip.AddrPort) netip.AddrPort {
	low := list[0]
	for _, a := range list[1:] {
		if a.Port() < low.Port() || a.Port() == low.Port() && a.Compare(low) < 0 {
			low = a
		}
	}
	return low
}

func hostOf(directory string) string {
	if u, err := url.Parse(directory); err == nil {
		return u.Host
	}
	return directory
}

// reasonOf is what err says, without what certmagic says around it.
func reasonOf(err error) string {
	var problem acme.Problem
	if errors.As(err, &problem) {
		parts := []string{}
		for _, p := range problem.Subproblems {
			parts = append(parts, p.Detail)
		}
		if problem.Detail != "" {
			parts = append([]string{problem.Detail}, parts...)
		}
		return fmt.Sprintf("the authority says: %s (%s)", bounded(strings.Join(parts, "; ")),
			strings.TrimPrefix(problem.Type, acme.ProblemTypeNamespace))
	}
	var at *url.Error
	if errors.As(err, &at) {
		return bounded(at.Error())
	}
	return bounded(err.Error())
}

// bounded is what is shown of words of the authority's.
func bounded(s string) string {
	const most = 500
	s = strings.ToValidUTF8(strings.Join(strings.Fields(s), " "), "?")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}

// explain says why an order has failed, and what to do.
func explain(err error) (why, fix string) {
	why = reasonOf(err)
	var problem acme.Problem
	var at *url.Error
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &unknown):
		return why, "name the file with the authority's own CA in ca_file"
	case errors.Is(err, errNoDir), errors.Is(err, fs.ErrPermission):
		return why, "let the gateway write its data_dir"
	case errors.As(err, &problem):
		return why, fixOf(problem.Type)
	case errors.As(err, &at):
		return why, "see that the gateway's host reaches the directory, by its proxy (HTTPS_PROXY) if it needs one; it is tried again"
	}
	return why, "see what the authority says of it; it is tried again"
}

// fixOf is what to do about a problem of RFC 8555 section 6.7.
func fixOf(kind string) string {
	switch strings.TrimPrefix(kind, acme.ProblemTypeNamespace) {
	case "dns", "caa":
		return "have the name's A and AAAA records lead to this gateway, and let a CAA record, if there is one, name the authority"
	case "connection", "tls", "unauthorized", "incorrectResponse":
		return "let the authority reach this ingress on port 443 of every address that the name has, or an ingress in clear text on port 80"
	case "rateLimited":
		return "wait: the authority has issued or refused too much; it is tried again less and less often"
	case "rejectedIdentifier", "unsupportedIdentifier":
		return "take the name out of the ingress, or order it from an authority that issues for it"
	case "externalAccountRequired":
		return "take an authority that needs no external account"
	}
	return "see what the authority says of it; it is tried again"
}
