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
func WatchResources(ctx context.Context, dir string, apply func([]federation.Resource) error, failed func(error)) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	last := "never"
	for {
		if now := fingerprint(dir); now != last {
			last = now
			resources, err := ParseResources(dir)
			if err == nil {
				err = apply(resources)
			}
			failed(err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
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
