// Package health runs the active checks of instances: TCP, HTTP, gRPC health and TTL.
//
// A Checker is told what to watch and reports what the checks of each instance add up to, whenever that changes. One
// goroutine schedules all checks from a heap; an attempt has a goroutine of its own only while it lasts, no check has two
// attempts at a time, and the number of attempts in flight is bounded. The first attempt comes at once, the following ones at
// a fixed phase that is random for each check, so that checks that appeared together do not stay together.
//
// Checks go only where an instance says it listens, never where federation.CheckAddress forbids, and follow no redirect and
// no proxy. Nothing that an instance answers is kept beyond 256 octets.
package health
