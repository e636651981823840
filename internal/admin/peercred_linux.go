package admin

import (
	"errors"
	"fmt"
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
)

// peerCredentials returns what the kernel noted about the peer when it connected (unix(7), SO_PEERCRED and SO_PEERGROUPS).
func peerCredentials(conn net.Conn) (credentials, error) {
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return credentials{}, fmt.Errorf("read peer credentials: %T is no unix socket", conn)
	}
	raw, err := unixConn.SyscallConn()
	if err != nil {
		return credentials{}, fmt.Errorf("read peer credentials: %w", err)
	}
	var c credentials
	var inner error
	err = raw.Control(func(fd uintptr) {
		var u *unix.Ucred
		if u, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); inner != nil {
			return
		}
		c = credentials{uid: u.Uid, pid: u.Pid, groups: []uint32{u.Gid}}
		var more []uint32
		if more, inner = peerGroups(fd); inner == nil {
			c.groups = append(c.groups, more...)
		}
	})
	if err = errors.Join(err, inner); err != nil {
		return credentials{}, fmt.Errorf("read peer credentials: %w", err)
	}
	return c, nil
}

// peerGroups returns the supplementary groups. The unix package has no call for an option that is a list.
func peerGroups(fd uintptr) ([]uint32, error) {
	groups := make([]uint32, 64)
	for {
		size := uint32(len(groups) * 4)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == 0:
			return groups[:size/4], nil
		case errno == unix.ERANGE && size/4 > uint32(len(groups)) && size <= 1<<18: // NGROUPS_MAX is 65536
			groups = make([]uint32, size/4)
		default:
			return nil, errno
		}
	}
}
