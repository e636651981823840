//go:build !linux

package tunnel

import (
	"errors"
	"net"
	"time"
)

// Elsewhere the kernel is left to itself: lanes work, with its congestion control and its own idea of when a connection is dead.

func offersBBR() bool { return false }

func tuneTCP(*net.TCPConn) (congestion string) { return "" }

func giveUp(*net.TCPConn, time.Duration) {}

func setPacing(*net.TCPConn, uint64) error { return errors.ErrUnsupported }

func sampleTCP(*net.TCPConn) (tcpSample, bool) { return tcpSample{}, false }

func stillOpen(*net.TCPConn) bool { return true }
