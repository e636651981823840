package registry

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

func TestHealthGoesThroughTheLane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChecker()
		r := New(Config{Checker: c})
		s := add(t, r, "a")
		start(t, r)
		one, two := inst("web", "1", "192.0.2.1:80"), inst("web", "2", "192.0.2.2:80")
		one.Checks = []federation.CheckSpec{{Kind: federation.CheckTCP}}
		s.publish(one, two)
		same(t, "before any answer", show(r, web), "1- 2+")
		taken(r.HealthChanged())
		r.TakeHealthChanges()
		before := r.Catalog()
		c.answer("1", federation.HealthPassing, "")
		same(t, "after an answer", show(r, web), "1+ 2+")
		if !taken(r.HealthChanged()) || taken(r.HealthChanged()) {
			t.Error("not signalled exactly once")
		}
		same(t, "dirty", r.TakeHealthChanges(), []federation.ServiceName{web})
		same(t, "dirty", len(r.TakeHealthChanges()), 0)
		c.answer("1", federation.HealthFailing, "refused")
		same(t, "after death", show(r, web), "1- 2+")
		i, _ := r.Instance(web, "1")
		if i.Health != federation.HealthFailing || i.Reason != "refused" || !i.Since.Equal(time.Now()) || len(i.Checks) != 1 {
			t.Errorf("instance is %+v", i)
		}
		// What a source says is health as well, and can only make it worse.
		two.Health = federation.HealthDraining
		s.publish(one, two)
		same(t, "draining", show(r, web), "1- 2-")
		two.Health = federation.HealthUnknown
		s.publish(one, two)
		same(t, "a source without an opinion", show(r, web), "1- 2+")
		one.Health = federation.HealthFailing
		s.publish(one, two)
		c.answer("1", federation.HealthPassing, "")
		same(t, "failing by its source", show(r, web), "1- 2+")
		if r.Catalog() != before {
			t.Error("a change of health made a new catalog")
		}
		// Late news of a former address is no news.
		one.Health, one.Address = federation.HealthPassing, netip.MustParseAddrPort("192.0.2.9:80")
		former := c.target("1")
		s.publish(one, two)
		c.report(federation.HealthReport{Service: web, Instance: "1", Version: former.Version, Health: federation.HealthPassing})
		synctest.Wait()
		same(t, "moved", show(r, web), "1- 2+")
		c.answer("1", federation.HealthPassing, "")
		same(t, "moved and checked", show(r, web), "1+ 2+")
		s.publish(two)
		if got := c.target("1"); got.Version != 0 {
			t.Errorf("a gone instance is still watched: %+v", got)
		}
	})
}

func TestServiceResources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChecker()
		r := New(Config{Region: "here", Checker: c})
		s := add(t, r, "a")
		start(t, r)
		s.publish(inst("web", "1", "192.0.2.1:80"))
		spec := federation.CheckSpec{Kind: federation.CheckTCP}
		services := map[federation.ServiceName]federation.Service{
			web: {Protocol: federation.ProtocolHTTP, Checks: []federation.CheckSpec{spec},
				Instances: []federation.StaticInstance{{Address: netip.MustParseAddrPort("192.0.2.7:80"), Zone: "z1"}}},
			{Namespace: "default", Name: "empty"}: {},
		}
		r.SetServices(services)
		synctest.Wait()
		same(t, "web", show(r, web), "1- 192.0.2.7:80-")
		c.answer("1", federation.HealthPassing, "")
		c.answer("192.0.2.7:80", federation.HealthPassing, "")
		same(t, "web", show(r, web), "1+ 192.0.2.7:80+")
		same(t, "protocol", r.Catalog().Service(web).Protocol, federation.ProtocolHTTP)
		same(t, "empty", show(r, federation.ServiceName{Namespace: "default", Name: "empty"}), "")
		same(t, "zone", r.Catalog().Service(web).Instances[1].Locality, federation.Locality{Region: "here", Zone: "z1"})
		if i, _ := r.Instance(web, "192.0.2.7:80"); i.Source != Resources {
			t.Errorf("instance is %+v", i)
		}
		before, watched := r.Catalog(), c.watched
		r.SetServices(services)
		synctest.Wait()
		if r.Catalog() != before || c.watched != watched {
			t.Error("unchanged services made work")
		}
		r.SetServices(nil)
		synctest.Wait()
		same(t, "web", show(r, web), "1+")
		same(t, "names", len(r.Catalog().Names()), 1)
		same(t, "protocol", r.Catalog().Service(web).Protocol, federation.ProtocolTCP)
		same(t, "targets", len(c.targets), 0)
	})
}

func TestProtocolOfInstances(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Config{})
		s := add(t, r, "a")
		start(t, r)
		one, two := inst("web", "1", "192.0.2.1:80"), inst("web", "2", "192.0.2.2:80")
		one.Protocol = federation.ProtocolHTTP
		s.publish(one, two)
		same(t, "one says http, one nothing", r.Catalog().Service(web).Protocol, federation.ProtocolHTTP)
		two.Protocol = federation.ProtocolGRPC
		s.publish(one, two)
		same(t, "they disagree", r.Catalog().Service(web).Protocol, federation.ProtocolTCP)
		if p := r.Problems(); len(p) != 1 || p[0].Code != federation.CodeProtocolConflict {
			t.Errorf("problems are %v", p)
		}
		r.SetServices(map[federation.ServiceName]federation.Service{web: {Protocol: federation.ProtocolTCP}})
		synctest.Wait()
		if p := r.Problems(); len(p) != 0 {
			t.Errorf("problems are %v", p)
		}
	})
}

func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Config{})
		s := add(t, r, "a")
		start(t, r)
		r.Drain(web, "2", true) // before it is there
		s.publish(inst("web", "1", "192.0.2.1:80"), inst("web", "2", "192.0.2.2:80"))
		same(t, "web", show(r, web), "1+ 2-")
		r.Drain(web, "1", true)
		r.Drain(web, "2", false)
		synctest.Wait()
		same(t, "web", show(r, web), "1- 2+")
		same(t, "dirty", r.TakeHealthChanges(), []federation.ServiceName{web})
		if i := r.Instances()[0]; i.Health != federation.HealthDraining || i.Reason != "drained by an operator" {
			t.Errorf("instance is %+v", i)
		}
	})
}

func TestSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChecker()
		r := New(Config{Checker: c})
		a, b := add(t, r, "a"), add(t, r, "b")
		start(t, r)
		one := inst("web", "1", "192.0.2.1:80")
		one.Checks = []federation.CheckSpec{{Kind: federation.CheckTCP}}
		a.publish(one)
		c.answer("1", federation.HealthPassing, "")
		if taken(r.Settled()) {
			t.Error("settled without b")
		}
		b.publish()
		if !taken(r.Settled()) {
			t.Error("not settled")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		r := New(Config{})
		add(t, r, "a")
		start(t, r)
		<-r.Settled()
		same(t, "a silent source is waited for", time.Since(began), 5*time.Second)
	})
	synctest.Test(t, func(t *testing.T) {
		r := New(Config{})
		start(t, r)
		if !taken(r.Settled()) {
			t.Error("without sources not settled at once")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		r := New(Config{})
		add(t, r, "a")
		start(t, r)
		if err := r.Remove("a"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if !taken(r.Settled()) {
			t.Error("a source that was removed is waited for")
		}
	})
}

func TestChangedChecksDoNotTakeAnInstanceOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChecker()
		r := New(Config{Checker: c})
		s := add(t, r, "a")
		start(t, r)
		one := inst("web", "1", "192.0.2.1:80")
		one.Checks = []federation.CheckSpec{{Kind: federation.CheckTCP}}
		s.publish(one)
		c.answer("1", federation.HealthPassing, "")
		before := r.Catalog()
		one.Checks = []federation.CheckSpec{{Kind: federation.CheckTCP}, {Kind: federation.CheckHTTP}}
		s.publish(one)
		same(t, "a check was added", show(r, web), "1+")
		c.answer("1", federation.HealthUnknown, "http has not answered")
		same(t, "it has not answered", show(r, web), "1+")
		c.answer("1", federation.HealthFailing, "http says no")
		same(t, "it says no", show(r, web), "1-")
		one.Checks = nil
		s.publish(one)
		same(t, "no checks any more", show(r, web), "1+")
		if r.Catalog() != before {
			t.Error("a change of checks made a new catalog")
		}
	})
}

func TestAnInstanceThatGoesFromOneSourceToAnotherKeepsItsHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChecker()
		r := New(Config{Checker: c})
		a, b := add(t, r, "a"), add(t, r, "b")
		start(t, r)
		one := inst("web", "1", "192.0.2.1:80")
		one.Checks = []federation.CheckSpec{{Kind: federation.CheckTCP}}
		a.publish(one)
		c.answer("1", federation.HealthPassing, "")
		b.publish(one)
		before := r.Catalog()
		if err := r.Remove("a"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if i, _ := r.Instance(web, "1"); i.Source != "b" || i.Health != federation.HealthPassing || r.Catalog() != before {
			t.Errorf("instance is %+v", i)
		}
	})
}
