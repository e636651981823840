package file

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

const maxKept = 4 * maxTotal // fields that the files leave out are written here

// kept is the last valid set of a source on disk.
type kept struct {
	Path      string                `json:"path"` // of the files that it was read from
	Read      time.Time             `json:"read"`
	Instances []federation.Instance `json:"instances"`
}

// recall returns what an earlier run kept of the same files, or nil. What cannot be read is not used: the files decide alone then.
func (s *Source) recall() *kept {
	if s.cfg.Keep == "" {
		return nil
	}
	data, err := slurp(s.cfg.Keep, maxKept)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var k kept
	if err == nil {
		err = json.Unmarshal(data, &k)
	}
	if err != nil {
		s.cfg.Log.Warn("the instances kept by an earlier run cannot be used", "path", s.cfg.Keep, "err", err)
		return nil
	}
	if k.Path != s.cfg.Path {
		return nil
	}
	return &k
}

// remember keeps instances, which were read now, unless they are those of before, and returns what is kept then.
func (s *Source) remember(instances []federation.Instance, before *kept) *kept {
	if s.cfg.Keep == "" || before != nil && reflect.DeepEqual(before.Instances, instances) {
		return before
	}
	next := &kept{Path: s.cfg.Path, Read: time.Now(), Instances: instances}
	data, err := json.Marshal(next)
	if err == nil {
		err = poll.Store(s.cfg.Keep, data)
	}
	if err != nil {
		s.cfg.Log.Warn("instances are not kept for the next start", "err", fmt.Errorf("keep instances: %w", err))
		return before
	}
	return next
}
