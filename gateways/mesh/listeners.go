package mesh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// socketMode is the mode of a unix socket: the owner and the group of the gateway may connect, nobody else.
const socketMode = 0o660

// listener is one bound address.
type listener struct {
	net.Listener
	// upstream is what a connection counts as; it may change while the socket stays. Nil: the local mTLS listener.
	upstream atomic.Pointer[federation.Upstream]
}

// listeners is the set of bound upstream addresses. Its own lock is held while sockets are opened and closed, never while a
// connection is served.
type listeners struct {
	mu       sync.Mutex
	bound    map[string]*listener // by address as written in the upstream
	problems map[string]*federation.Diagnostic
	local    *listener       // for workloads with an SVID; nil: none
	serve    func(*listener) // starts the accept loop; nil until Run and after it
	closed   bool
}

// reconcile makes the bound addresses those of wanted. Addresses that stay keep their socket and its backlog; new ones are
// bound before any is closed. What cannot be bound changes nothing else, and an upstream that moves to an address that
// cannot be bound stays at its old one, unless its caller changed: who reached the old address would be taken for another.
func (ls *listeners) reconcile(wanted []federation.Upstream) []*federation.Diagnostic {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.closed {
		return nil
	}
	previous := make(map[string]string, len(ls.bound)) // upstream name to address
	for address, l := range ls.bound {
		previous[l.upstream.Load().Name] = address
	}
	keep := make(map[string]bool, len(wanted))
	var homeless []*federation.Upstream
	problems := map[string]*federation.Diagnostic{}
	for i := range wanted {
		u := &wanted[i]
		address := addressKey(u)
		if keep[address] && ls.bound[address] != nil {
			problems[u.Name] = twice(u, ls.bound[address].upstream.Load())
			continue
		}
		l := ls.bound[address]
		if l == nil {
			var problem *federation.Diagnostic
			if l, problem = bind(u); problem != nil {
				problems[u.Name] = problem
				homeless = append(homeless, u)
				continue
			}
			ls.bound[address] = l
			if ls.serve != nil {
				ls.serve(l)
			}
		}
		l.upstream.Store(u)
		keep[address] = true
	}
	for _, u := range homeless { // after all others: what an upstream names goes before what another one had
		ls.stay(u, previous[u.Name], keep)
	}
	for address, l := range ls.bound {
		if !keep[address] {
			_ = l.Close()
			delete(ls.bound, address)
		}
	}
	for _, u := range homeless { // what was in the way may have been an address of ours: of all hosts, when u is for one
		if ls.bound[previous[u.Name]] == nil {
			ls.retry(u, problems)
		}
	}
	ls.problems = problems
	return ls.listProblems()
}

// retry binds the address of u once more.
func (ls *listeners) retry(u *federation.Upstream, problems map[string]*federation.Diagnostic) {
	address := addressKey(u)
	if ls.bound[address] != nil {
		return
	}
	l, problem := bind(u)
	if problem != nil {
		return
	}
	delete(problems, u.Name)
	ls.bound[address] = l
	if ls.serve != nil {
		ls.serve(l)
	}
}

// stay keeps u at the address it had, if that still stands for the same caller and hosts and no other upstream took it.
func (ls *listeners) stay(u *federation.Upstream, address string, keep map[string]bool) {
	l := ls.bound[address]
	if l == nil || keep[address] || l.upstream.Load().Caller != u.Caller || l.upstream.Load().Name != u.Name ||
		!slices.Equal(l.upstream.Load().AllowFrom, u.AllowFrom) || portOf(address) == portOf(u.Listen) {
		return
	}
	l.upstream.Store(u)
	keep[address] = true
}

// listProblems returns the problems in the order of the upstreams' names. ls.mu is held.
func (ls *listeners) listProblems() []*federation.Diagnostic {
	var list []*federation.Diagnostic
	for _, name := range slices.Sorted(maps.Keys(ls.problems)) {
		list = append(list, ls.problems[name])
	}
	return list
}

// start begins to accept on all bound addresses, and on those bound later.
func (ls *listeners) start(serve func(*listener)) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.closed {
		return
	}
	ls.serve = serve
	if ls.local != nil {
		serve(ls.local)
	}
	for _, l := range ls.bound {
		serve(l)
	}
}

// BindLocal binds where for SetLocal: loopback TCP or a unix socket, as Config.LocalListen. For no address it returns nil.
func (m *Mesh) BindLocal(where string) (net.Listener, error) {
	if where == "" {
		return nil, nil
	}
	network, address, err := federation.ParseListen(where)
	if err == nil && (m.cfg.LocalTLS == nil || m.cfg.Workload == nil) {
		err = errors.New("no trust is configured for it")
	}
	var l net.Listener
	if err == nil {
		l, err = listen(network, address)
	}
	if err != nil {
		return nil, &federation.Diagnostic{
			Code: federation.CodeLocalListen, Err: err,
			What: fmt.Sprintf("the local mTLS listener cannot be opened on %s", where),
			Why:  err.Error(),
			Fix:  "free the address, or give the local listener another one (or none) in gateway.hcl",
		}
	}
	return l, nil
}

// Listen binds the local mTLS listener, if there is to be one, so that a caller learns of trouble before it declares itself started.
// Run calls it when nobody did.
func (m *Mesh) Listen() error {
	if m.bound.Swap(true) {
		return nil
	}
	l, err := m.BindLocal(m.cfg.LocalListen)
	if err == nil {
		m.SetLocal(l)
	}
	return err
}

// SetLocal makes l, which may be nil, the local mTLS listener instead of the one before. Connections that came by that one go on.
func (m *Mesh) SetLocal(l net.Listener) {
	ls := &m.listeners
	ls.mu.Lock()
	defer ls.mu.Unlock()
	old := ls.local
	ls.local = nil
	switch {
	case l == nil:
	case ls.closed:
		_ = l.Close()
	default:
		ls.local = &listener{Listener: l}
		if ls.serve != nil {
			ls.serve(ls.local)
		}
	}
	if old != nil {
		_ = old.Close()
	}
}

// LocalAddr is where workloads with an SVID connect; nil before Listen, and when there is no such listener.
func (m *Mesh) LocalAddr() net.Addr {
	m.listeners.mu.Lock()
	defer m.listeners.mu.Unlock()
	if m.listeners.local == nil {
		return nil
	}
	return m.listeners.local.Addr()
}

// stop closes all addresses for good.
func (ls *listeners) stop() {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.closed, ls.serve = true, nil
	if ls.local != nil {
		_ = ls.local.Close()
	}
	for address, l := range ls.bound {
		_ = l.Close()
		delete(ls.bound, address)
	}
}

// failed reports whether an upstream is not where it should be.
func (ls *listeners) failed() bool {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return len(ls.problems) > 0
}

// ListenerStatus is one upstream's listener, for people.
type ListenerStatus struct {
	Upstream federation.Upstream
	Address  net.Addr               // where it listens now; nil: nowhere
	Problem  *federation.Diagnostic // why it is not where it should be
}

// Listeners returns the state of every upstream of the current snapshot, in order of name.
func (m *Mesh) Listeners() []ListenerStatus {
	ls := &m.listeners
	ls.mu.Lock()
	defer ls.mu.Unlock()
	var all []ListenerStatus
	for _, u := range m.cfg.Table.Load().Listeners() {
		s := ListenerStatus{Upstream: u, Problem: ls.problems[u.Name]}
		for _, l := range ls.bound {
			if l.upstream.Load().Name == u.Name {
				s.Address = l.Addr()
			}
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b ListenerStatus) int { return cmp.Compare(a.Upstream.Name, b.Upstream.Name) })
	return all
}

// addressKey is u's address; two upstreams that let the system choose a port do not share it.
func addressKey(u *federation.Upstream) string {
	if strings.HasSuffix(u.Listen, ":0") {
		return u.Listen + " " + u.Name
	}
	return u.Listen
}

// portOf is the port of an address as written in an upstream; a unix socket is its own.
func portOf(address string) string { return address[strings.LastIndexByte(address, ':')+1:] }

func twice(u, first *federation.Upstream) *federation.Diagnostic {
	return &federation.Diagnostic{
		Code: federation.CodeUpstreamTwice,
		What: fmt.Sprintf("upstream %q does not listen on %s", u.Name, u.Listen),
		Why:  fmt.Sprintf("upstream %q listens there", first.Name),
		Fix:  fmt.Sprintf("give upstream %q an address of its own", u.Name),
	}
}

// bind opens the address of u.
func bind(u *federation.Upstream) (*listener, *federation.Diagnostic) {
	network, address, err := u.Address()
	var l net.Listener
	if err == nil {
		l, err = listen(network, address)
	}
	if err == nil {
		bound := &listener{Listener: l}
		bound.upstream.Store(u)
		return bound, nil
	}
	d := &federation.Diagnostic{
		Code: federation.CodeUpstreamListen, Err: err,
		What: fmt.Sprintf("upstream %q does not listen on %s", u.Name, u.Listen),
		Why:  err.Error(),
		Fix:  "give it an address that is free and allowed",
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE) && network == "unix" && !isSocket(address):
		d.Why = fmt.Sprintf("%s exists and is no socket; it is left alone", address)
		d.Fix = "move it away, or give the upstream another path"
	case errors.Is(err, syscall.EADDRINUSE):
		d.Why = "another process listens there"
		d.Fix = fmt.Sprintf("see who it is with \"ss -xltnp | grep %s\" and stop it, or give the upstream another address "+
			"(it is tried again every %v)", address, rebindEvery)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		d.Fix = "let the gateway's user bind there, or give the upstream another address (ports below 1024 need CAP_NET_BIND_SERVICE)"
	case errors.Is(err, syscall.ENOENT):
		d.Fix = "create the directory of the socket"
	}
	return nil, d
}

// listen is net.Listen, for a unix socket with socketMode and without tripping over the file of a dead process.
func listen(network, address string) (net.Listener, error) {
	if network != "unix" {
		// Callers are on this host: the kernel always knows when one is gone, so keep-alive would only cost system calls.
		return (&net.ListenConfig{KeepAlive: -1}).Listen(context.Background(), network, address)
	}
	l, err := listenUnix(address)
	if errors.Is(err, syscall.EADDRINUSE) && stale(address) {
		if err := os.Remove(address); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("remove the socket of a process that is gone: %w", err)
		}
		return listenUnix(address)
	}
	return l, err
}

func listenUnix(path string) (net.Listener, error) {
	// On Linux the file gets the mode that the unbound socket has, less the umask: nobody can connect before the chmod below.
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) { failed = syscall.Fchmod(int(fd), socketMode) })
		return errors.Join(err, failed)
	}}
	l, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, socketMode); err != nil { // the umask may have taken the group's right away
		_ = l.Close()
		return nil, fmt.Errorf("set the mode of socket %s: %w", path, err)
	}
	return l, nil
}

// stale reports whether path is a socket on which nobody listens.
func stale(path string) bool {
	if !isSocket(path) {
		return false
	}
	c, err := net.DialTimeout("unix", path, time.Second) // a full backlog blocks: then somebody does listen
	if err == nil {
		_ = c.Close()
		return false
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

func isSocket(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode().Type() == fs.ModeSocket
}
