package admin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// listenSocket binds a unix socket that its owner, and the group when it is not negative, may connect to.
func listenSocket(ctx context.Context, path string, group int) (net.Listener, error) {
	fail := func(why, fix string, err error) error {
		return &federation.Diagnostic{Code: "TW-8008", What: "cannot listen on the admin socket " + path, Why: why, Fix: fix, Err: err}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fail(err.Error(), "create the directory, or set admin.socket to a path that the gateway may write", err)
	}
	if err := removeStale(ctx, path); err != nil {
		fix := "stop the other process, or give this gateway its own data_dir"
		if errors.Is(err, errNoSocket) {
			fix = "move it away, or set admin.socket to another path"
		}
		return nil, fail(err.Error(), fix, err)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fail(err.Error(), "check the directory's permissions", err)
	}
	// Between bind and chmod the socket has the process's umask. That gap lets nobody in: each connection's credentials are
	// checked as well.
	mode := fs.FileMode(0o600)
	if group >= 0 {
		mode = 0o660
		err = errors.Join(os.Chown(path, -1, group), letThrough(filepath.Dir(path), group))
	}
	if err = errors.Join(err, os.Chmod(path, mode)); err != nil {
		return nil, errors.Join(fail(err.Error(), "let the gateway's user be a member of the group", err), l.Close())
	}
	return l, nil
}

// letThrough lets members of group reach what they may open in dir, which as a data directory nobody else may enter. They
// cannot list it, and its other files stay the owner's alone.
func letThrough(dir string, group int) error {
	info, err := os.Stat(dir)
	if err != nil || info.Mode()&0o001 != 0 {
		return err
	}
	owned, ok := info.Sys().(*syscall.Stat_t)
	if ok && int(owned.Gid) == group && info.Mode()&0o010 != 0 {
		return nil
	}
	return errors.Join(os.Chown(dir, -1, group), os.Chmod(dir, info.Mode().Perm()&^0o060|0o010))
}

var errNoSocket = errors.New("a file that is no socket is in the way")

// removeStale removes the socket that a dead process left at path. Anything that answers, or is no socket, stays.
func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return errNoSocket
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second) // a live process accepts at once: the kernel does it
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		return errors.Join(errors.New("another process answers on it"), conn.Close())
	case errors.Is(err, syscall.ECONNREFUSED):
		return os.Remove(path)
	}
	return fmt.Errorf("cannot tell whether another process uses it: %w", err)
}

// checkLoopback refuses an address that other machines could reach.
func checkLoopback(address string) error {
	host, _, err := net.SplitHostPort(address)
	why := ""
	switch ip, ipErr := netip.ParseAddr(host); {
	case err != nil:
		why = err.Error()
	case ipErr != nil:
		why = fmt.Sprintf("%q is no IP address", host)
	case !ip.IsLoopback():
		why = "who may use this API may do everything, so it listens on loopback only"
	default:
		return nil
	}
	return &federation.Diagnostic{Code: "TW-8009", What: "cannot listen for the admin API on " + address, Why: why,
		Fix: "set admin.listen to 127.0.0.1:8480 or [::1]:8480; from other machines use: ssh -L 8480:127.0.0.1:8480 HOST"}
}

func listenLoopback(ctx context.Context, address string) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, &federation.Diagnostic{Code: "TW-8010", What: "cannot listen for the admin API on " + address, Why: err.Error(),
			Fix: "set admin.listen to a free port, or to \"\" to do without", Err: err}
	}
	return l, nil
}
