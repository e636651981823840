package demo

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

// discover waits until every gateway has found the machines of its cloud.
func (s *story) discover(ctx context.Context) error {
	s.screen.next(s.begin, "each gateway asks its cloud's API every %v s which machines serve checkout; the APIs of AWS, Google Cloud and "+
		"Azure are local doubles which speak the clouds' protocols: the same discover block works unchanged with real credentials",
		pollEvery.Seconds())
	from := time.Now()
	var found []string
	for _, name := range []federation.Region{aws, gcp, azure} {
		r, n := s.regions[name], 0
		err := s.until(ctx, 10*time.Second, "the machines of "+string(name)+" to be found", func() (err error) {
			if n, err = r.found(ctx); err == nil && n != len(r.machines) {
				err = fmt.Errorf("%d of %d are", n, len(r.machines))
			}
			return err
		})
		if err != nil {
			return err
		}
		found = append(found, fmt.Sprintf("%d in %s", n, r.cloud.product))
	}
	s.done(Step{Name: "discover", OK: true, Detail: fmt.Sprintf("machines whose tags say checkout: %s; all found %d ms after the gateways "+
		"were ready", strings.Join(found, ", "), time.Since(from).Milliseconds())})
	return nil
}

// found returns how many machines r's gateway has found.
func (r *region) found(ctx context.Context) (n int, err error) {
	list, err := r.client.ListProviders(ctx, &admin.ListProvidersRequest{})
	if err != nil {
		return 0, err
	}
	for _, p := range list.Providers {
		if n += p.Instances; p.Problem != nil {
			err = fmt.Errorf("provider %s: %s: %s", p.Source, p.Problem.What, p.Problem.Why)
		}
	}
	return n, err
}

// scaleOut starts one more machine and measures when traffic reaches it.
func (s *story) scaleOut(ctx context.Context) error {
	r := s.regions[aws]
	from := time.Now()
	m, err := s.boot(r)
	if err != nil {
		return err
	}
	s.screen.next(s.begin, "a third machine, %s, starts in %s ...", m.name, aws)
	its := server{string(aws), m.name}
	var reached time.Time
	err = s.until(ctx, 10*time.Second, "traffic to reach "+m.name, func() error {
		at, ok := s.load.first(from, func(by server) bool { return by == its })
		if reached = at; !ok {
			return errors.New("it has answered nothing yet")
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := pause(ctx, time.Second/2); err != nil { // for its share of the traffic to be seen
		return err
	}
	t := s.load.since(from)
	step := t.step("start a machine", t.failed == 0 && t.retried == 0, fmt.Sprintf("%s answered %d of them; a machine is used once "+
		"the API lists it and its health check passes", m.name, t.machines[its]))
	step.ReachedMS = millis(reached.Sub(from))
	s.done(step)
	return nil
}

// scaleIn takes the newest machine away again, and measures when traffic has left it.
func (s *story) scaleIn(ctx context.Context) error {
	r := s.regions[aws]
	m := r.machines[len(r.machines)-1]
	s.screen.next(s.begin, "AWS is about to terminate %s: its Auto Scaling group lists it as Terminating:Wait ...", m.name)
	from := time.Now()
	m.leaving = true
	r.cloud.show(r.machines)
	var last time.Time
	err := s.until(ctx, 10*time.Second, m.name+" to have no traffic", func() error {
		at, since := s.load.last(from, func(by server) bool { return by == server{string(aws), m.name} })
		if last = at; since < ratePerSecond { // by chance it is not passed over so many times
			return errors.New("it has answered a moment ago")
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.take(m)
	t := s.load.since(from)
	step := t.step("terminate it", t.failed == 0 && t.retried == 0,
		fmt.Sprintf("that was its last answer; the next %d came from others, and then it was stopped", ratePerSecond))
	step.WithdrawnMS = millis(last.Sub(from))
	s.done(step)
	return nil
}

// replace puts new machines in the place of all that r has, as an Auto Scaling group does with what has died.
func (w *world) replace(r *region) error {
	dead := r.machines
	for range dead {
		if _, err := w.boot(r); err != nil {
			return err
		}
	}
	r.take(dead...)
	return nil
}
