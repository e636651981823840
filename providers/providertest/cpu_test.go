package providertest

import (
	"syscall"
	"testing"
	"time"
)

// cpuTime is what this process has used of the processor: unlike the clock it does not run while others do.
func cpuTime(t *testing.T) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
