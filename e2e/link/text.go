package link

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Change changes a profile by words, as people write them:
//
//	delay 20ms   jitter 2ms   jitter-reorders on   rate 200M   queue 1M   mtu 1400   loss 1%   burst 1% 5   reorder 2% 10ms
//	duplicate 0.1%   blackhole on   udp off   tcp off   perfect
//
// burst takes the share of packets that is lost and the mean length of a burst; k, M and G are powers of 1000; perfect undoes
// everything. Several may follow each other. The profile stays as it was when an error is returned.
func (p *Profile) Change(words []string) error {
	if len(words) == 0 {
		return errors.New("change a profile: no setting given")
	}
	changed := *p
	for len(words) > 0 {
		name, rest := words[0], words[1:]
		s, known := settings[name]
		if !known {
			return fmt.Errorf("change a profile: there is no setting %q", name)
		}
		if len(rest) < s.values {
			return fmt.Errorf("change a profile: %s takes %d value(s), such as %q", name, s.values, s.example)
		}
		if err := s.apply(&changed, rest[:s.values]); err != nil {
			return fmt.Errorf("change a profile: %s, such as %q: %w", name, s.example, err)
		}
		words = rest[s.values:]
	}
	if err := changed.validate(); err != nil {
		return fmt.Errorf("change a profile: %w", err)
	}
	*p = changed
	return nil
}

type setting struct {
	values  int
	example string
	apply   func(p *Profile, values []string) error
}

var settings = map[string]setting{
	"delay":           one("delay 20ms", func(p *Profile) *time.Duration { return &p.Delay }, time.ParseDuration),
	"jitter":          one("jitter 2ms", func(p *Profile) *time.Duration { return &p.Jitter }, time.ParseDuration),
	"jitter-reorders": one("jitter-reorders on", func(p *Profile) *bool { return &p.JitterReorders }, on),
	"rate":            one("rate 200M", func(p *Profile) *int64 { return &p.Rate }, number),
	"queue":           one("queue 1M", func(p *Profile) *int { return &p.Queue }, small),
	"mtu":             one("mtu 1400", func(p *Profile) *int { return &p.MTU }, small),
	"loss":            one("loss 1%", func(p *Profile) *float64 { return &p.Loss }, share),
	"duplicate":       one("duplicate 1%", func(p *Profile) *float64 { return &p.Duplicate }, share),
	"blackhole":       one("blackhole on", func(p *Profile) *bool { return &p.Blackhole }, on),
	"udp":             one("udp off", func(p *Profile) *bool { return &p.BlockUDP }, off),
	"tcp":             one("tcp off", func(p *Profile) *bool { return &p.BlockTCP }, off),
	"perfect":         {0, "perfect", func(p *Profile, _ []string) error { *p = Profile{}; return nil }},
	"burst": {2, "burst 1% 5", func(p *Profile, values []string) error {
		lost, err := share(values[0])
		if err != nil {
			return err
		}
		length, err := strconv.ParseFloat(values[1], 64)
		if err != nil || !(length >= 1) {
			return fmt.Errorf("%q is not a length in packets, 1 or more", values[1])
		}
		p.Burst = Bursts(lost, length)
		return nil
	}},
	"reorder": {2, "reorder 2% 10ms", func(p *Profile, values []string) (err error) {
		if p.Reorder, err = share(values[0]); err == nil {
			p.ReorderDelay, err = time.ParseDuration(values[1])
		}
		return err
	}},
}

// one is a setting of one value.
func one[T any](example string, field func(*Profile) *T, parse func(string) (T, error)) setting {
	return setting{1, example, func(p *Profile, values []string) error {
		v, err := parse(values[0])
		if err == nil {
			*field(p) = v
		}
		return err
	}}
}

func on(text string) (bool, error) {
	if text != "on" && text != "off" {
		return false, fmt.Errorf("%q is neither on nor off", text)
	}
	return text == "on", nil
}

func off(text string) (bool, error) {
	v, err := on(text)
	return !v, err
}

// share reads a percentage, or a fraction of 1.
func share(text string) (float64, error) {
	digits, percent := strings.CutSuffix(text, "%")
	v, err := strconv.ParseFloat(digits, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is no share", text)
	}
	if percent {
		v /= 100
	}
	return v, nil
}

// number reads a whole number that may end with k, M or G.
func number(text string) (int64, error) {
	factor := 1.0
	digits := strings.TrimRight(text, "kMG")
	switch text[len(digits):] {
	case "":
	case "k":
		factor = 1e3
	case "M":
		factor = 1e6
	case "G":
		factor = 1e9
	default:
		return 0, fmt.Errorf("%q is no number", text)
	}
	v, err := strconv.ParseFloat(digits, 64)
	if err != nil || !(v >= 0 && v*factor <= maxRate) { // nothing that is set is larger
		return 0, fmt.Errorf("%q is no number from 0 to %.0fG", text, maxRate/1e9)
	}
	return int64(v * factor), nil
}

func small(text string) (int, error) {
	v, err := number(text)
	return int(v), err
}
