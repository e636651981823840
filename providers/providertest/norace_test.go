//go:build !race

package providertest

// slower is how many times slower this build is than one without the race detector.
const slower = 1
