//go:build !linux

package admin

import (
	"errors"
	"net"
)

// peerCredentials fails: a gateway runs on Linux. Only the client is used elsewhere.
func peerCredentials(net.Conn) (credentials, error) {
	return credentials{}, errors.New("read peer credentials: not possible on this system")
}
