// Package agent is the composition root of a gateway: every concrete type of the house meets here, and only here. New builds
// and locks what a region owns, Run starts it, waits, drains and stops it, and the files answer_*.go give the admin API its
// answers.
package agent
