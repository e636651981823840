package config

import (
	"context"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// pollEvery is how often a resources directory is looked at. Polling sees every kind of file system and every way of replacing
// a file; a second is shorter than the time it takes to look whether it worked.
const pollEvery = time.Second

// WatchResources calls apply with the resources of dir, now and after every change, until ctx is cancelled. When the files do
// not parse or apply fails, it calls failed with the reason and tries again at the next change; what was applied stays.
//
// Absence is no deletion: a directory that is gone or holds no file (not mounted, being replaced) and an empty file (being
// written) are failures, and a change counts once it has lasted for a whole look. Who wants nothing declared leaves a comment.
func WatchResources(ctx context.Context, dir string, apply func([]federation.Resource) error, failed func(error)) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	seen, read := fingerprint(dir), "never"
	for {
		now := fingerprint(dir)
		if now == seen && now != read {
			read = now
			resources, err := declared(dir)
			if err == nil {
				err = apply(resources)
			}
			failed(err)
		}
		seen = now
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// declared reads the resources of dir.
func declared(dir string) ([]federation.Resource, error) {
	names, _ := resourceFiles(dir) // what is wrong with dir, ParseResources says
	for _, name := range names {
		if info, err := os.Stat(name); err == nil && info.Size() == 0 {
			return nil, &federation.Diagnostic{Code: "TW-1003", What: "cannot read resources from " + name,
				Why: "the file is empty: it may be about to be written",
				Fix: "remove the file, or write a comment into it if it shall declare nothing"}
		}
	}
	return ParseResources(dir)
}

// fingerprint changes whenever a resource file in dir is added, removed, replaced or written.
func fingerprint(dir string) string {
	h := fnv.New64a()
	names, err := resourceFiles(dir)
	if err != nil {
		return err.Error()
	}
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil {
			fmt.Fprintln(h, name, err)
			continue
		}
		fmt.Fprintln(h, filepath.Base(name), info.Size(), info.ModTime().UnixNano())
	}
	return fmt.Sprintf("%x", h.Sum64())
}
