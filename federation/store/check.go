package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math"
)

// checkFile walks every page that a bolt file of size octets says it uses and returns what would make bolt fault on it.
//
// It exists because bolt follows page numbers through a memory map: one flipped bit in a number leads outside the map,
// which kills the process beyond any recover, and inside bolt's own check too. This walk reads the file with ReadAt, visits
// each page at most once and allocates no more than the file holds. The layout is that of bbolt's internal/common, unchanged
// since the first version of bolt; numbers are in the byte order of the machine that wrote them.
func checkFile(r io.ReaderAt, size int64) error {
	m, err := readMeta(r, size)
	if err != nil {
		return err
	}
	c := &checker{r: r, meta: m, used: make([]bool, m.pages)}
	if err := c.bucket(m.root); err != nil {
		return err
	}
	return c.freelist()
}

const (
	pageHeader  = 16
	elementSize = 16
	metaSize    = 64
	metaMagic   = 0xED0CDAED
	metaVersion = 2

	branchFlag   = 0x01
	leafFlag     = 0x02
	freelistFlag = 0x10
	bucketFlag   = 0x01 // of a leaf element

	minPageSize = 1 << 10
	maxPageSize = 64 << 10 // the largest page of any operating system that Go runs on
	maxDepth    = 32       // a tree of two keys a page would hold 4 billion by then
)

var native = binary.NativeEndian

type boltMeta struct {
	pageSize                    int
	root, freelist, pages, txid uint64
}

// readMeta returns the newest of the two meta pages that is whole. A commit cut short can tear one of them, never both.
func readMeta(r io.ReaderAt, size int64) (boltMeta, error) {
	best, found := boltMeta{}, false
	take := func(at int64) bool {
		m, ok := metaAt(r, at)
		if ok && (at == 0 || at == int64(m.pageSize)) && (!found || m.txid > best.txid) {
			best, found = m, true
		}
		return ok
	}
	if take(0) {
		take(int64(best.pageSize))
	} else {
		for at := int64(minPageSize); at <= maxPageSize; at *= 2 {
			take(at)
		}
	}
	switch {
	case !found:
		return boltMeta{}, errors.New("it has no valid meta page")
	case best.pages < 3 || best.pages > uint64(size)/uint64(best.pageSize):
		return boltMeta{}, fmt.Errorf("it claims %d pages of %d octets, but has %d octets: it was cut short", best.pages, best.pageSize, size)
	}
	return best, nil
}

func metaAt(r io.ReaderAt, at int64) (boltMeta, bool) {
	b := make([]byte, pageHeader+metaSize)
	if _, err := r.ReadAt(b, at); err != nil {
		return boltMeta{}, false
	}
	b = b[pageHeader:]
	sum := fnv.New64a()
	_, _ = sum.Write(b[:metaSize-8]) // never fails (hash.Hash)
	m := boltMeta{
		pageSize: int(native.Uint32(b[8:])),
		root:     native.Uint64(b[16:]),
		freelist: native.Uint64(b[32:]),
		pages:    native.Uint64(b[40:]),
		txid:     native.Uint64(b[48:]),
	}
	ok := native.Uint32(b) == metaMagic && native.Uint32(b[4:]) == metaVersion && native.Uint64(b[56:]) == sum.Sum64() &&
		m.pageSize >= minPageSize && m.pageSize <= maxPageSize && m.pageSize&(m.pageSize-1) == 0
	return m, ok
}

type checker struct {
	r    io.ReaderAt
	meta boltMeta
	used []bool
}

// page reads page id with its overflow and marks it used.
func (c *checker) page(id uint64) ([]byte, error) {
	if id < 2 || id >= c.meta.pages {
		return nil, fmt.Errorf("page %d is outside the file of %d pages", id, c.meta.pages)
	}
	size := int64(c.meta.pageSize)
	head := make([]byte, pageHeader)
	if _, err := c.r.ReadAt(head, int64(id)*size); err != nil {
		return nil, fmt.Errorf("read page %d: %w", id, err)
	}
	overflow := uint64(native.Uint32(head[12:]))
	if native.Uint64(head) != id || overflow >= c.meta.pages-id {
		return nil, fmt.Errorf("page %d has the header of page %d with %d more", id, native.Uint64(head), overflow)
	}
	for i := id; i <= id+overflow; i++ {
		if c.used[i] {
			return nil, fmt.Errorf("page %d is used twice", i)
		}
		c.used[i] = true
	}
	b := make([]byte, int64(overflow+1)*size)
	if _, err := c.r.ReadAt(b, int64(id)*size); err != nil {
		return nil, fmt.Errorf("read page %d: %w", id, err)
	}
	return b, nil
}

// bucket checks the tree of the bucket whose root page is root.
func (c *checker) bucket(root uint64) error { return c.tree(root, span{}, 0) }

// span is the range that the keys of a page must lie in; a nil end is open.
type span struct{ from, to []byte }

func (c *checker) tree(id uint64, keys span, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("page %d lies deeper than %d levels", id, maxDepth)
	}
	b, err := c.page(id)
	if err != nil {
		return err
	}
	elements, err := parsePage(b, keys)
	if err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	for i, e := range elements {
		switch {
		case !e.leaf:
			below := span{e.key, keys.to}
			if i+1 < len(elements) {
				below.to = elements[i+1].key
			}
			err = c.tree(e.child, below, depth+1)
		case e.isBucket:
			err = c.bucketValue(e.value, depth)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// bucketValue checks a bucket by its entry in the parent: a page number, or a small leaf page in place.
func (c *checker) bucketValue(v []byte, depth int) error {
	if len(v) < 16 {
		return errors.New("a bucket has no header")
	}
	if root := native.Uint64(v); root != 0 {
		return c.tree(root, span{}, depth+1)
	}
	inline := v[16:]
	if len(inline) < pageHeader || native.Uint16(inline[8:]) != leafFlag {
		return errors.New("a bucket kept in place is no leaf page")
	}
	elements, err := parsePage(inline, span{})
	if err != nil {
		return fmt.Errorf("a bucket kept in place: %w", err)
	}
	for _, e := range elements {
		if e.isBucket {
			return errors.New("a bucket kept in place holds another bucket")
		}
	}
	return nil
}

type element struct {
	leaf, isBucket bool
	child          uint64
	key, value     []byte
}

// parsePage returns the elements of a branch or leaf page, whose keys must rise within keys.
func parsePage(b []byte, keys span) ([]element, error) {
	flags, count := native.Uint16(b[8:]), int(native.Uint16(b[10:]))
	if flags != branchFlag && flags != leafFlag {
		return nil, fmt.Errorf("it is neither branch nor leaf (flags %#x)", flags)
	}
	if pageHeader+count*elementSize > len(b) || flags == branchFlag && count == 0 {
		return nil, fmt.Errorf("it cannot hold %d elements", count)
	}
	elements := make([]element, 0, count)
	last := keys.from
	for i := range count {
		at := pageHeader + i*elementSize
		head := b[at : at+elementSize]
		e := element{leaf: flags == leafFlag}
		var pos, ksize, vsize uint64
		if e.leaf {
			kind := native.Uint32(head)
			if kind > bucketFlag {
				return nil, fmt.Errorf("element %d has unknown flags %#x", i, kind)
			}
			e.isBucket = kind == bucketFlag
			pos, ksize, vsize = uint64(native.Uint32(head[4:])), uint64(native.Uint32(head[8:])), uint64(native.Uint32(head[12:]))
		} else {
			pos, ksize, e.child = uint64(native.Uint32(head)), uint64(native.Uint32(head[4:])), native.Uint64(head[8:])
		}
		start := uint64(at) + pos
		if ksize == 0 || start < uint64(pageHeader+count*elementSize) || start+ksize+vsize > uint64(len(b)) {
			return nil, fmt.Errorf("element %d reaches outside the page", i)
		}
		e.key, e.value = b[start:start+ksize], b[start+ksize:start+ksize+vsize]
		rises := bytes.Compare(last, e.key) < 0 || i == 0 && bytes.Equal(last, e.key)
		if !rises || keys.to != nil && bytes.Compare(e.key, keys.to) >= 0 {
			return nil, fmt.Errorf("the key of element %d is out of order", i)
		}
		last = e.key
		elements = append(elements, e)
	}
	return elements, nil
}

// freelist checks that no page is both free and used, and none is free twice: bolt would hand it out and overwrite it.
func (c *checker) freelist() error {
	if c.meta.freelist == math.MaxUint64 {
		return nil // not kept in the file; bolt finds the free pages by itself
	}
	b, err := c.page(c.meta.freelist)
	if err != nil {
		return fmt.Errorf("list of free pages: %w", err)
	}
	count, ids := uint64(native.Uint16(b[10:])), b[pageHeader:]
	if count == math.MaxUint16 { // more than 16 bits can count: the first number is the count
		count, ids = native.Uint64(ids), ids[8:]
	}
	if native.Uint16(b[8:]) != freelistFlag || count > uint64(len(ids)/8) {
		return errors.New("the list of free pages is damaged")
	}
	for i := range count {
		id := native.Uint64(ids[8*i:])
		if id < 2 || id >= c.meta.pages || c.used[id] {
			return fmt.Errorf("page %d is listed as free and is not", id)
		}
		c.used[id] = true
	}
	return nil
}
