// Package demo runs three regions on one machine: real gateway processes, real HTTP services, links with the delay of an ocean,
// and a story of failures. Every number it prints was measured in that run.
package demo
