// Package floors holds the plan of the house as data, and a test that fails on any import the plan does not allow and on any
// room the plan does not list. It has no code of its own to call.
package floors
