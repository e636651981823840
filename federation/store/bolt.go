package store

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/crc64"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/tradewind-mesh/tradewind/federation"
)

// format is the layout of the file: the bucket "tradewind" holds records about the store, the bucket "state" the entries.
const format = "1"

var (
	ownBucket   = []byte("tradewind")
	stateBucket = []byte("state")

	formatKey = []byte("format")
	headKey   = []byte("head")
)

// Bolt is a Store in one file, state.db, of one process.
type Bolt struct {
	db     *bolt.DB
	lock   *os.File
	path   string
	closed atomic.Bool
	failed atomic.Pointer[federation.Diagnostic] // set once a write failed for another reason than room
}

// OpenBolt opens the store in dir, or makes an empty one when there is none. It makes dir with mode 0700 if it is missing.
// Every failure is a *federation.Diagnostic, and none of them changes an existing file. The whole file is read and checked,
// which takes about a second for 1 GiB. The store holds the directory until Close or the end of the process.
func OpenBolt(dir string) (*Bolt, error) {
	if err := prepareDir(dir); err != nil {
		return nil, dirUnusable(dir, err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	b := &Bolt{lock: lock, path: filepath.Join(dir, "state.db")}
	if err := b.open(); err != nil {
		lock.Close()
		return nil, err
	}
	return b, nil
}

func prepareDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s is writable by others (mode %04o)", dir, info.Mode().Perm())
	}
	return nil
}

func (b *Bolt) open() error {
	info, err := os.Lstat(b.path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if err := create(b.path); err != nil {
			return dirUnusable(filepath.Dir(b.path), err)
		}
	case err != nil:
		return dirUnusable(filepath.Dir(b.path), err)
	case !info.Mode().IsRegular():
		return damaged(b.path, errors.New("it is not a regular file"))
	case info.Mode().Perm()&0o077 != 0:
		return dirUnusable(filepath.Dir(b.path), fmt.Errorf("%s is open to others (mode %04o)", b.path, info.Mode().Perm()))
	default:
		if err := inspect(b.path); err != nil {
			return err
		}
	}
	b.db, err = openFile(b.path, false)
	return err
}

// create makes an empty store aside and moves it into place, so that a death on the way never leaves half a file.
func create(path string) error {
	aside := path + ".new"
	if err := os.Remove(aside); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	db, err := bolt.Open(aside, 0o600, &bolt.Options{Timeout: lockTimeout})
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		own, err := tx.CreateBucket(ownBucket)
		if err != nil {
			return err
		}
		if _, err := tx.CreateBucket(stateBucket); err != nil {
			return err
		}
		return errors.Join(putRecord(own, formatKey, 0, []byte(format)), head{}.put(own))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	if err := os.Rename(aside, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// lockTimeout is how long bolt may wait for its own lock: lockDir has already sorted out the gateways, so only a tool that
// is looking at the file can hold it, and an operator had rather be told than wait.
const lockTimeout = 200 * time.Millisecond

// inspect reads the whole file without a right to write it, and returns a Diagnostic when it is not fit for use.
func inspect(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return dirUnusable(filepath.Dir(path), err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return dirUnusable(filepath.Dir(path), err)
	}
	if err := checkFile(f, info.Size()); err != nil {
		return damaged(path, err)
	}
	db, err := openFile(path, true)
	if err != nil {
		return err
	}
	defer db.Close()
	return guard(path, func() error { return db.View(func(tx *bolt.Tx) error { return inspectRecords(path, tx) }) })
}

func inspectRecords(path string, tx *bolt.Tx) error {
	own, state := tx.Bucket(ownBucket), tx.Bucket(stateBucket)
	if own == nil || state == nil {
		return damaged(path, errors.New("it is a bolt database of another program"))
	}
	_, found, err := getRecord(own, formatKey)
	switch {
	case err != nil:
		return damaged(path, fmt.Errorf("read format: %w", err))
	case len(found) > len(format), len(found) == len(format) && string(found) > format:
		return newer(path, string(found))
	case string(found) != format:
		return damaged(path, fmt.Errorf("its format is %q", found))
	}
	h, err := getHead(own)
	if err != nil {
		return damaged(path, err)
	}
	err = state.ForEach(func(k, rec []byte) error {
		_, _, err := parseRecord(k, rec)
		h.remove(k, rec)
		return err
	})
	if err == nil && (h.entries != 0 || h.sum != 0) {
		err = errors.New("entries are missing")
	}
	if err != nil {
		return damaged(path, err)
	}
	return nil
}

func openFile(path string, readOnly bool) (db *bolt.DB, err error) {
	err = guard(path, func() error {
		db, err = bolt.Open(path, 0o600, &bolt.Options{Timeout: lockTimeout, ReadOnly: readOnly})
		if errors.Is(err, bolterrors.ErrTimeout) {
			return heldBy(filepath.Dir(path), "a program that has state.db open", err)
		}
		if err != nil {
			return damaged(path, err)
		}
		return nil
	})
	return db, err
}

// guard turns a panic of bolt, which is how it reports a page it cannot believe, into a Diagnostic.
func guard(path string, f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = damaged(path, fmt.Errorf("%v", r))
		}
	}()
	return f()
}

// head is what the store says of itself, changed with every commit. Count and sum tell when an entry has gone missing: a
// damaged page header can make bolt read fewer elements than the page has, all of them good.
type head struct {
	revision uint64
	entries  uint64
	sum      uint64 // of the CRC-64 of all records with their keys, in any order
	epoch    federation.Epoch
}

var ecma = crc64.MakeTable(crc64.ECMA)

func (h *head) add(key, rec []byte) {
	h.entries++
	h.sum += crc64.Update(crc64.Checksum(key, ecma), ecma, rec)
}

// remove undoes add; a nil rec was never added.
func (h *head) remove(key, rec []byte) {
	if rec != nil {
		h.entries--
		h.sum -= crc64.Update(crc64.Checksum(key, ecma), ecma, rec)
	}
}

func (h head) put(own *bolt.Bucket) error {
	value := make([]byte, 0, 32)
	for _, n := range []uint64{h.entries, h.sum, h.epoch.Counter, h.epoch.Incarnation} {
		value = binary.BigEndian.AppendUint64(value, n)
	}
	return putRecord(own, headKey, h.revision, value)
}

func getHead(own *bolt.Bucket) (head, error) {
	revision, value, err := getRecord(own, headKey)
	if err != nil || len(value) != 32 {
		return head{}, fmt.Errorf("read head: %w", cmp.Or(err, errChecksum))
	}
	n := func(i int) uint64 { return binary.BigEndian.Uint64(value[8*i:]) }
	return head{revision: revision, entries: n(0), sum: n(1), epoch: federation.Epoch{Counter: n(2), Incarnation: n(3)}}, nil
}

// A record is the version (8 octets), the CRC-32C of key, version and value (4 octets), and the value. bolt has no
// checksums of its own below the meta pages, and a value with a flipped bit must not pass for state.
const recordHeader = 12

var errChecksum = errors.New("it does not match its checksum")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func recordSum(key, version, value []byte) uint32 {
	return crc32.Update(crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, version), castagnoli, value)
}

func newRecord(key []byte, version uint64, value []byte) []byte {
	rec := make([]byte, recordHeader, recordHeader+len(value))
	binary.BigEndian.PutUint64(rec, version)
	binary.BigEndian.PutUint32(rec[8:], recordSum(key, rec[:8], value))
	return append(rec, value...)
}

func putRecord(bucket *bolt.Bucket, key []byte, version uint64, value []byte) error {
	return bucket.Put(key, newRecord(key, version, value))
}

// parseRecord returns the parts of a record; value aliases rec.
func parseRecord(key, rec []byte) (version uint64, value []byte, err error) {
	if len(rec) < recordHeader || recordSum(key, rec[:8], rec[recordHeader:]) != binary.BigEndian.Uint32(rec[8:]) {
		return 0, nil, fmt.Errorf("record %q: %w", key, errChecksum)
	}
	return binary.BigEndian.Uint64(rec), rec[recordHeader:], nil
}

// getRecord returns the record of key, or version 0 and nil when there is none.
func getRecord(bucket *bolt.Bucket, key []byte) (version uint64, value []byte, err error) {
	rec := bucket.Get(key)
	if rec == nil {
		return 0, nil, nil
	}
	return parseRecord(key, rec)
}

// Close ends the store after the calls in progress. It may be called more than once.
func (b *Bolt) Close() error {
	if b.closed.Swap(true) {
		return nil
	}
	return errors.Join(b.db.Close(), b.lock.Close())
}

// Get implements Store.
func (b *Bolt) Get(ctx context.Context, key string) (e Entry, err error) {
	err = b.view(ctx, func(tx *bolt.Tx) error {
		version, value, err := getRecord(tx.Bucket(stateBucket), []byte(key))
		if err == nil && version == 0 {
			err = ErrNotFound
		}
		if err != nil {
			return fmt.Errorf("read %q: %w", key, err)
		}
		e = Entry{Key: key, Value: bytes.Clone(value), Version: version}
		return nil
	})
	return e, err
}

// List implements Store.
func (b *Bolt) List(ctx context.Context, prefix string) (list []Entry, err error) {
	err = b.view(ctx, func(tx *bolt.Tx) error {
		cursor := tx.Bucket(stateBucket).Cursor()
		for k, rec := cursor.Seek([]byte(prefix)); k != nil && bytes.HasPrefix(k, []byte(prefix)); k, rec = cursor.Next() {
			version, value, err := parseRecord(k, rec)
			if err != nil {
				return err
			}
			list = append(list, Entry{Key: string(k), Value: bytes.Clone(value), Version: version})
		}
		return nil
	})
	return list, err
}

func (b *Bolt) view(ctx context.Context, f func(*bolt.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return b.explain(guard(b.path, func() error { return b.db.View(f) }))
}

// Commit implements Store.
func (b *Bolt) Commit(ctx context.Context, ops ...Op) (revision uint64, err error) {
	if err := CheckOps(ops); err != nil {
		return 0, err
	}
	writes := false
	for _, op := range ops {
		writes = writes || !op.Check
	}
	transaction := func(tx *bolt.Tx) (err error) {
		revision, err = apply(tx, writes, ops)
		return err
	}
	if writes {
		err = b.update(ctx, transaction)
	} else {
		err = b.view(ctx, transaction)
	}
	if err != nil {
		return 0, err
	}
	return revision, nil
}

// apply checks every condition before it changes anything, and returns the revision that tx leaves behind.
func apply(tx *bolt.Tx, writes bool, ops []Op) (uint64, error) {
	own, state := tx.Bucket(ownBucket), tx.Bucket(stateBucket)
	h, err := getHead(own)
	if err != nil {
		return 0, err
	}
	for _, op := range ops {
		have, _, err := getRecord(state, []byte(op.Key))
		if err == nil {
			err = op.Conflict(have)
		}
		if err != nil {
			return 0, err
		}
	}
	if !writes {
		return h.revision, nil
	}
	h.revision++
	for _, op := range ops {
		key := []byte(op.Key)
		switch {
		case op.Check:
		case op.Delete:
			h.remove(key, state.Get(key))
			err = state.Delete(key)
		default:
			h.remove(key, state.Get(key))
			rec := newRecord(key, h.revision, op.Value)
			h.add(key, rec)
			err = state.Put(key, rec)
		}
		if err != nil {
			return 0, fmt.Errorf("write %q: %w", op.Key, err)
		}
	}
	return h.revision, h.put(own)
}

// update runs f in a write transaction and returns after fsync. A write that fails for want of room leaves the store as it
// was. After any other failure no write is taken any more: when fsync fails, the kernel drops the pages it could not write
// and the next fsync succeeds without them, so going on could acknowledge what is not on the disk.
func (b *Bolt) update(ctx context.Context, f func(*bolt.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if d := b.failed.Load(); d != nil {
		return d
	}
	var refused error // by f, as opposed to bolt's
	err := guard(b.path, func() error {
		return b.db.Update(func(tx *bolt.Tx) error {
			refused = f(tx)
			return refused
		})
	})
	switch {
	case err == nil:
		return nil
	case refused != nil, b.closed.Load():
		return b.explain(err)
	case isFull(err):
		return full(b.path, err)
	}
	d := stopped(b.path, err)
	b.failed.CompareAndSwap(nil, d)
	return d
}

// Failed returns why the store takes no more writes until the process is restarted, or nil while it takes them.
func (b *Bolt) Failed() *federation.Diagnostic { return b.failed.Load() }

// explain says in the words of this package what a transaction ran into.
func (b *Bolt) explain(err error) error {
	switch {
	case errors.Is(err, bolterrors.ErrDatabaseNotOpen):
		return ErrClosed
	case errors.Is(err, errChecksum):
		return damaged(b.path, err)
	}
	return err
}
