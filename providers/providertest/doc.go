// Package providertest holds the contract that every source of instances must keep, as a suite that a provider's tests run:
// it publishes complete sets and nothing else, keeps silent when it cannot see, stops promptly, can be run again, and leaves
// nothing behind.
package providertest
