package providertest

import (
	"slices"
	"sync"

	"github.com/tradewind-mesh/tradewind/providers/double"
)

// Player keeps a World for a fake: it counts requests and says what each of them meets. Its methods may be called from any
// goroutine. An empty Player plays an empty world.
type Player struct {
	mu       sync.Mutex
	world    World
	met      map[int]int // how often the fault of a page has been met
	requests int
}

// Serve makes the player hold w and count from 0. It fits ListerRig.Serve but for the *testing.T.
func (p *Player) Serve(w World) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.world, p.met, p.requests = w, map[int]int{}, 0
}

// Requests returns the number of requests since Serve.
func (p *Player) Requests() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.requests
}

// Count counts a request that is for no page, such as one for the details of items that Page has given.
func (p *Player) Count() {
	p.mu.Lock()
	p.requests++
	p.mu.Unlock()
}

// Page counts a request for page i, from 0, and returns what is to be served: the items, the fault if this request meets one, and
// the index of the next page or -1. The items are there whatever the fault is. A page that does not exist is empty and the last.
// For a request that is to hang, World.Reached has been called when Page returns.
func (p *Player) Page(i int) (items []Item, fault Fault, next int) {
	p.mu.Lock()
	p.requests++
	if i < 0 || i >= len(p.world.Pages) {
		p.mu.Unlock()
		return nil, "", -1
	}
	page, reached := p.world.Pages[i], p.world.Reached
	fault, next = p.meet(i), i+1
	if next == len(p.world.Pages) {
		next = -1
	}
	p.mu.Unlock()
	if fault == Loop {
		next = i
	}
	if fault == Hang && reached != nil {
		reached()
	}
	return page.Items, fault, next
}

// All is Page for an API without pages: the items of all of them, and the first fault that is left to meet.
func (p *Player) All() (items []Item, fault Fault) {
	p.mu.Lock()
	p.requests++
	for i, page := range p.world.Pages {
		items = append(items, page.Items...)
		if fault == "" {
			fault = p.meet(i)
		}
	}
	reached := p.world.Reached
	p.mu.Unlock()
	if fault == Hang && reached != nil {
		reached()
	}
	return items, fault
}

// Failure is Page for a double that makes its pages itself and counts its requests: what a request for page i fails with.
func (p *Player) Failure(i int) *double.Failure {
	p.mu.Lock()
	var fault Fault
	if i >= 0 && i < len(p.world.Pages) {
		fault = p.meet(i)
	}
	reached := p.world.Reached
	p.mu.Unlock()
	if fault == Hang && reached != nil {
		reached()
	}
	if fault == "" {
		return nil
	}
	return &double.Failure{Fault: fault, RetryAfter: RetryAfter}
}

// Has reports whether a page of the world has the fault.
func (p *Player) Has(f Fault) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.world.Pages, func(page Page) bool { return page.Fault == f })
}

// Sizes returns how many items each page has, those that are gone with them or not.
func (p *Player) Sizes(gone bool) (sizes []int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, page := range p.world.Pages {
		w := World{Pages: []Page{page}}
		if gone {
			sizes = append(sizes, len(w.All()))
		} else {
			sizes = append(sizes, len(w.Present()))
		}
	}
	return sizes
}

// meet returns the fault of page i, if there is one left, and counts it.
func (p *Player) meet(i int) Fault {
	page := p.world.Pages[i]
	if page.Fault == "" || page.Times > 0 && p.met[i] >= page.Times {
		return ""
	}
	p.met[i]++
	return page.Fault
}
