// Package storetest holds the contract that every store must pass, and a store in memory for the tests of other rooms.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/tradewind-mesh/tradewind/federation/store"
)

// Run checks the store that open returns, which must be empty, against the contract of store.Store.
func Run(t *testing.T, open func(testing.TB) store.Store) {
	for name, test := range map[string]func(*testing.T, store.Store){
		"absent":          testAbsent,
		"versions":        testVersions,
		"conditions":      testConditions,
		"all or nothing":  testAllOrNothing,
		"check only":      testCheckOnly,
		"list":            testList,
		"copies":          testCopies,
		"limits":          testLimits,
		"cancelled":       testCancelled,
		"one winner":      testOneWinner,
		"nothing is lost": testConcurrentCounters,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
	t.Run("behaves as a map", func(t *testing.T) {
		rapid.Check(t, func(rt *rapid.T) { testModel(rt, open(t)) })
	})
}

func put(t rapid.TB, s store.Store, key, value string) uint64 {
	t.Helper()
	revision, err := s.Commit(context.Background(), store.Op{Key: key, Value: []byte(value), Any: true})
	if err != nil {
		t.Fatalf("put %q: %v", key, err)
	}
	return revision
}

func expect(t rapid.TB, s store.Store, key, value string, version uint64) {
	t.Helper()
	e, err := s.Get(context.Background(), key)
	if err != nil || e.Key != key || string(e.Value) != value || e.Version != version {
		t.Fatalf("Get(%q) = %q version %d, %v; want %q version %d", key, e.Value, e.Version, err, value, version)
	}
}

func testAbsent(t *testing.T, s store.Store) {
	if _, err := s.Get(t.Context(), "nothing"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Get of an absent key: %v, want ErrNotFound", err)
	}
	if list, err := s.List(t.Context(), ""); err != nil || len(list) != 0 {
		t.Errorf("List of an empty store = %v, %v", list, err)
	}
	if _, err := s.Commit(t.Context(), store.Op{Key: "nothing", Delete: true, Any: true}); err != nil {
		t.Errorf("deleting an absent key whatever its version: %v", err)
	}
}

func testVersions(t *testing.T, s store.Store) {
	first := put(t, s, "a", "1")
	other := put(t, s, "b", "1")
	expect(t, s, "a", "1", first)
	second := put(t, s, "a", "2")
	expect(t, s, "a", "2", second)
	if first == 0 || other <= first || second <= other {
		t.Errorf("revisions %d, %d, %d do not rise from above 0", first, other, second)
	}
	if _, err := s.Commit(t.Context(), store.Op{Key: "a", Delete: true, If: second}); err != nil {
		t.Fatal(err)
	}
	again := put(t, s, "a", "2")
	if again <= second+1 {
		t.Errorf("a key made again after its deletion has version %d: it must lie above every earlier one", again)
	}
}

func testConditions(t *testing.T, s store.Store) {
	v := put(t, s, "a", "1")
	for _, op := range []store.Op{
		{Key: "a"},
		{Key: "a", If: v + 1},
		{Key: "a", If: v - 1, Delete: true},
		{Key: "a", Check: true},
		{Key: "absent", If: v},
		{Key: "absent", If: v, Delete: true},
		{Key: "absent", If: v, Check: true},
	} {
		_, err := s.Commit(t.Context(), op)
		var conflict *store.ConflictError
		if !errors.Is(err, store.ErrConflict) || !errors.As(err, &conflict) {
			t.Errorf("%+v: %v, want a *ConflictError", op, err)
			continue
		}
		have := v
		if op.Key == "absent" {
			have = 0
		}
		if conflict.Key != op.Key || conflict.Want != op.If || conflict.Have != have {
			t.Errorf("%+v: conflict is %+v", op, conflict)
		}
	}
	expect(t, s, "a", "1", v)
}

func testAllOrNothing(t *testing.T, s store.Store) {
	v := put(t, s, "a", "1")
	_, err := s.Commit(t.Context(),
		store.Op{Key: "b", Value: []byte("new")},
		store.Op{Key: "a", Delete: true, If: v},
		store.Op{Key: "c", If: 7, Check: true})
	if !errors.Is(err, store.ErrConflict) {
		t.Fatalf("commit with one false condition: %v", err)
	}
	expect(t, s, "a", "1", v)
	if _, err := s.Get(t.Context(), "b"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("part of a refused commit is there: %v", err)
	}
	revision, err := s.Commit(t.Context(),
		store.Op{Key: "b", Value: []byte("new")},
		store.Op{Key: "a", Value: []byte("2"), If: v},
		store.Op{Key: "c", Check: true})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, s, "a", "2", revision)
	expect(t, s, "b", "new", revision)
}

func testCheckOnly(t *testing.T, s store.Store) {
	v := put(t, s, "a", "1")
	revision, err := s.Commit(t.Context(), store.Op{Key: "a", Check: true, If: v})
	if err != nil || revision != v {
		t.Errorf("a commit that only checks = revision %d, %v; want %d", revision, err, v)
	}
}

func testList(t *testing.T, s store.Store) {
	for _, key := range []string{"b/2", "a", "b/1", "b", "b0", "c", "b/10"} {
		put(t, s, key, "value of "+key)
	}
	for prefix, want := range map[string]string{
		"":      "a b b/1 b/10 b/2 b0 c",
		"b":     "b b/1 b/10 b/2 b0",
		"b/":    "b/1 b/10 b/2",
		"b/1":   "b/1 b/10",
		"d":     "",
		"b/1/0": "",
	} {
		list, err := s.List(t.Context(), prefix)
		if err != nil {
			t.Fatal(err)
		}
		var keys []string
		for _, e := range list {
			keys = append(keys, e.Key)
			if string(e.Value) != "value of "+e.Key || e.Version == 0 {
				t.Errorf("List(%q) has %q = %q at version %d", prefix, e.Key, e.Value, e.Version)
			}
		}
		if got := strings.Join(keys, " "); got != want {
			t.Errorf("List(%q) = %q, want %q", prefix, got, want)
		}
	}
}

func testCopies(t *testing.T, s store.Store) {
	value := []byte("1")
	v, err := s.Commit(t.Context(), store.Op{Key: "a", Value: value})
	if err != nil {
		t.Fatal(err)
	}
	value[0] = 'x'
	e, err := s.Get(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	e.Value[0] = 'y'
	expect(t, s, "a", "1", v)
}

func testLimits(t *testing.T, s store.Store) {
	for name, ops := range map[string][]store.Op{
		"empty key":       {{Any: true}},
		"long key":        {{Key: strings.Repeat("k", store.MaxKey+1), Any: true}},
		"long value":      {{Key: "a", Value: make([]byte, store.MaxValue+1), Any: true}},
		"twice":           {{Key: "a", Any: true}, {Key: "a", Any: true}},
		"check of any":    {{Key: "a", Check: true, Any: true}},
		"too many":        make([]store.Op, store.MaxOps+1),
		"check to delete": {{Key: "a", Check: true, Delete: true}},
	} {
		if _, err := s.Commit(t.Context(), ops...); err == nil || errors.Is(err, store.ErrConflict) {
			t.Errorf("%s: %v, want a plain refusal", name, err)
		}
	}
	long, big := strings.Repeat("k", store.MaxKey), bytes.Repeat([]byte("v"), store.MaxValue)
	v, err := s.Commit(t.Context(), store.Op{Key: long, Value: big})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, s, long, string(big), v)
	v, err = s.Commit(t.Context(), store.Op{Key: "empty"})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, s, "empty", "", v)
}

func testCancelled(t *testing.T, s store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, getErr := s.Get(ctx, "a")
	_, listErr := s.List(ctx, "a")
	_, commitErr := s.Commit(ctx, store.Op{Key: "a", Any: true})
	for name, err := range map[string]error{"Get": getErr, "List": listErr, "Commit": commitErr} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s with a cancelled context: %v", name, err)
		}
	}
}

func testOneWinner(t *testing.T, s store.Store) {
	errs := make(chan error, 8)
	for i := range cap(errs) {
		go func() {
			_, err := s.Commit(context.Background(), store.Op{Key: "lock", Value: fmt.Append(nil, i)})
			errs <- err
		}()
	}
	won := 0
	for range cap(errs) {
		switch err := <-errs; {
		case err == nil:
			won++
		case !errors.Is(err, store.ErrConflict):
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d of %d writers made the same absent key", won, cap(errs))
	}
}

func testConcurrentCounters(t *testing.T, s store.Store) {
	const writers, each = 4, 10
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for done := 0; done < each; {
				e, err := s.Get(context.Background(), "n")
				if err != nil && !errors.Is(err, store.ErrNotFound) {
					t.Error(err)
					return
				}
				_, err = s.Commit(context.Background(), store.Op{Key: "n", Value: append(e.Value, 'x'), If: e.Version})
				switch {
				case err == nil:
					done++
				case !errors.Is(err, store.ErrConflict):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if e, err := s.Get(t.Context(), "n"); err != nil || len(e.Value) != writers*each {
		t.Errorf("%d increments left %d, %v", writers*each, len(e.Value), err)
	}
}

// testModel compares s with a map under random commits.
func testModel(t *rapid.T, s store.Store) {
	ctx := context.Background()
	if existing, err := s.List(ctx, ""); err != nil || len(existing) != 0 {
		t.Fatalf("store is not empty: %v, %v", existing, err)
	}
	model := map[string]store.Entry{}
	keys := rapid.SampledFrom([]string{"a", "a/b", "a/c", "b", "\x00", "ü"})
	for range rapid.IntRange(1, 12).Draw(t, "commits") {
		var ops []store.Op
		fails := false
		for _, key := range rapid.SliceOfNDistinct(keys, 1, 3, rapid.ID[string]).Draw(t, "keys") {
			op := store.Op{Key: key, Value: rapid.SliceOfN(rapid.Byte(), 0, 8).Draw(t, "value"), If: model[key].Version}
			switch rapid.IntRange(0, 4).Draw(t, "kind") {
			case 0:
				op.Delete = true
			case 1:
				op.Check = true
			case 2:
				op.Any, op.If = true, 0
			case 3:
				op.If += uint64(rapid.IntRange(0, 1).Draw(t, "wrong"))
			}
			fails = fails || op.Conflict(model[key].Version) != nil
			ops = append(ops, op)
		}
		revision, err := s.Commit(ctx, ops...)
		if fails != errors.Is(err, store.ErrConflict) || err != nil && !fails {
			t.Fatalf("Commit(%+v): %v, conflict expected: %v", ops, err, fails)
		}
		if err == nil {
			applyToModel(model, ops, revision)
		}
		compare(t, s, model)
	}
}

func applyToModel(model map[string]store.Entry, ops []store.Op, revision uint64) {
	for _, op := range ops {
		switch {
		case op.Check:
		case op.Delete:
			delete(model, op.Key)
		default:
			model[op.Key] = store.Entry{Key: op.Key, Value: op.Value, Version: revision}
		}
	}
}

func compare(t *rapid.T, s store.Store, model map[string]store.Entry) {
	list, err := s.List(context.Background(), "")
	inOrder := slices.IsSortedFunc(list, func(a, b store.Entry) int { return strings.Compare(a.Key, b.Key) })
	if err != nil || len(list) != len(model) || !inOrder {
		t.Fatalf("List = %v, %v; want the %d entries %v in order", list, err, len(model), model)
	}
	for _, e := range list {
		expect(t, s, e.Key, string(model[e.Key].Value), model[e.Key].Version)
	}
}
