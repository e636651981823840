package exchange

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tradewind-mesh/tradewind/federation"
)

// The saved form is savedMagic, the first 16 octets of SHA-256 of the rest, and one message:
//
//	1 Epoch known, 2 Cursor applied, 3 fixed64 as-of in Unix nanoseconds, 4 repeated row, 5 repeated withdrawal, 6 repeated slot table
//
// A row is a Row of cx1.proto whose body is the last good one, with 7 digest (the hash the peer's own body has, when that is
// not the body here), 8 fault code, 9 fault reason. A withdrawal is a Gone with 3 Epoch. A slot table is of our own export:
// 1 service, 2 last generation, 3 repeated {1 key, 2 slot, 3 generation}.
var savedMagic = []byte("twcx1\x00\x00\x01")

// Errors that restore wraps.
var (
	errSavedForm   = errors.New("it is not a saved import of this version")
	errSavedSum    = errors.New("its checksum does not match")
	errSavedDigest = errors.New("its rows do not have the digest of its cursor")
)

// Saved returns what New needs to go on in another life: the last good import with the place in the peer's history, and the
// slots of our own export, so that after a restart its digests are what they were. It holds no secret.
func (m *Machine) Saved() []byte {
	b := appendCursor(appendEpoch(nil, 1, m.imp.known), 2, m.imp.applied)
	if m.had {
		b = appendFixed(b, 3, uint64(m.asOf.UnixNano()))
	}
	var health []byte
	for _, r := range sortedRows(m.imp.rows) {
		b = appendMessage(b, 4, func(b []byte) []byte {
			b = appendUint(appendString(b, 1, r.wire), 2, r.seq)
			if r.svc != nil {
				health = health[:0]
				for i := range r.refs {
					h := m.trueHealth(r, i)
					health = protowire.AppendVarint(protowire.AppendVarint(health, uint64(h.Healthy)), uint64(h.Total))
				}
				b = appendBytes(appendString(b, 3, r.body), 6, health)
			}
			if r.fault != nil {
				b = appendString(appendString(appendDigest(b, 7, r.hash), 8, string(r.fault.code)), 9, r.fault.reason)
			}
			return b
		})
	}
	for _, wire := range sortedKeys(m.imp.gone) {
		g := m.imp.gone[wire]
		b = appendMessage(b, 5, func(b []byte) []byte { return appendEpoch(appendUint(appendString(b, 1, wire), 2, g.seq), 3, g.epoch) })
	}
	for _, r := range m.exported() {
		b = appendMessage(b, 6, func(b []byte) []byte {
			b = appendUint(appendString(b, 1, r.wire), 2, uint64(r.gen))
			for i := range r.slots {
				b = appendMessage(b, 3, func(b []byte) []byte {
					return appendUint(appendUint(appendString(b, 1, r.slots[i].Key), 2, uint64(r.places[i].num)), 3, uint64(r.places[i].gen))
				})
			}
			return b
		})
	}
	sum := sha256.Sum256(b)
	return slices.Concat(savedMagic, sum[:16], b)
}

// exported lists the services we show, and those whose slots we remember, by name.
func (m *Machine) exported() []*exportRow {
	var rows []*exportRow
	for r := m.log.first; r != nil; r = r.next {
		if !r.gone() {
			rows = append(rows, r)
		}
	}
	for _, r := range m.log.restored {
		rows = append(rows, r)
	}
	slices.SortFunc(rows, func(a, b *exportRow) int { return a.name.Compare(b.name) })
	return rows
}

func sortedKeys[V any](in map[string]V) []string {
	keys := make([]string, 0, len(in))
	for k := range in {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, cmp.Compare[string])
	return keys
}

// restore fills a new machine from what Saved returned.
func (m *Machine) restore(saved []byte) error {
	b, ok := bytes.CutPrefix(saved, savedMagic)
	if !ok || len(b) < 16 {
		return errSavedForm
	}
	if sum := sha256.Sum256(b[16:]); !bytes.Equal(sum[:16], b[:16]) {
		return errSavedSum
	}
	return m.restoreFrom(b[16:])
}

// restoreFrom reads the message of the saved form.
func (m *Machine) restoreFrom(b []byte) error {
	var at Cursor
	var asOf uint64
	err := eachField(b, func(f field) error {
		switch f.num {
		case 1:
			return f.epoch(&m.imp.known)
		case 2:
			return f.cursor(&at)
		case 3:
			m.had = true
			return f.fixed(&asOf)
		case 4:
			return m.restoreRow(f.bytes)
		case 5:
			return m.restoreGone(f.bytes)
		case 6:
			return m.restoreSlots(f.bytes)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading the saved import: %w", err)
	}
	if m.imp.applied.Digest != at.Digest {
		return errSavedDigest
	}
	m.imp.applied = at
	for _, r := range m.imp.rows {
		if r.fault != nil {
			m.imp.say(r, r.seq, Digest{}) // this life may understand what the last one did not: ask for it again
		}
	}
	m.head = Cursor{Epoch: at.Epoch}
	if m.had {
		m.asOf = time.Unix(0, int64(asOf))
		m.persistedAsOf = m.asOf
	}
	return nil
}

func (m *Machine) restoreRow(b []byte) error {
	var wire, body, health, code, reason []byte
	var seq uint64
	var hash Digest
	err := eachField(b, func(f field) error {
		switch f.num {
		case 1:
			return f.raw(&wire, maxName)
		case 2:
			return f.uint(&seq, ^uint64(0))
		case 3:
			return f.raw(&body, maxBody)
		case 6:
			return f.raw(&health, maxRow)
		case 7:
			return f.digest(&hash)
		case 8:
			return f.raw(&code, 16)
		case 9:
			return f.raw(&reason, 256)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(wire) == 0 || m.imp.rows[string(wire)] != nil {
		return errMissing
	}
	r := m.imp.insert(string(wire))
	if code == nil {
		hash = m.hasher.row(m.cfg.Peer, r.wire, body)
	} else {
		r.fault = &fault{federation.Code(code), string(reason)}
	}
	m.imp.say(r, seq, hash)
	if body == nil {
		return nil
	}
	name, err := federation.ParseServiceName(r.wire)
	if err != nil {
		return err
	}
	p, bad := m.reader.read(name, body)
	if bad != nil {
		return errors.New(bad.reason)
	}
	slots := make([]federation.SlotHealth, len(p.refs))
	for _, ref := range p.refs {
		slots[ref.idx].Generation = ref.gen
	}
	err = eachHealth(health, len(slots), func(i int, healthy, total uint32) { slots[i].Healthy, slots[i].Total = healthy, total })
	if err != nil {
		return err
	}
	p.svc.Lane = federation.NewHealthLane(slots)
	m.imp.assign(r, p)
	m.show(r, r.svc)
	return nil
}

func (m *Machine) restoreGone(b []byte) error {
	var wire []byte
	var g goneMark
	err := eachField(b, func(f field) error {
		switch f.num {
		case 1:
			return f.raw(&wire, maxName)
		case 2:
			return f.uint(&g.seq, ^uint64(0))
		case 3:
			return f.epoch(&g.epoch)
		}
		return nil
	})
	m.imp.gone[string(wire)] = g
	return err
}

func (m *Machine) restoreSlots(b []byte) error {
	var wire []byte
	var gen uint64
	r := &exportRow{}
	err := eachField(b, func(f field) error {
		switch f.num {
		case 1:
			return f.raw(&wire, maxName)
		case 2:
			return f.uint(&gen, 1<<16-1)
		case 3:
			key, p, err := savedSlot(f)
			r.slots = append(r.slots, federation.ExportedSlot{Key: key})
			r.places = append(r.places, p)
			return err
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.gen = uint16(gen)
	if r.name, err = federation.ParseServiceName(string(wire)); err == nil {
		r.wire = r.name.String()
		m.log.restored[r.name] = r
	}
	return err
}

func savedSlot(f field) (string, place, error) {
	var key []byte
	var num, gen uint64
	if f.typ != protowire.BytesType {
		return "", place{}, errType
	}
	err := eachField(f.bytes, func(f field) error {
		switch f.num {
		case 1:
			return f.raw(&key, maxKey)
		case 2:
			return f.uint(&num, 1<<16-1)
		case 3:
			return f.uint(&gen, 1<<16-1)
		}
		return nil
	})
	return string(key), place{num: uint16(num), gen: uint16(gen)}, err
}
