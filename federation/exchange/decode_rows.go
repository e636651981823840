package exchange

// decodeDelta reads a Delta. Its rows are checked and counted here, and read again by eachRow: a slice of them would cost
// more than ten times the frame.
func decodeDelta(b []byte) (d delta, err error) {
	d.rows, d.rowField = b, 4
	var t uint64
	err = eachField(b, func(f field) error {
		switch f.num {
		case 1:
			return f.uint(&d.sub, ^uint64(0))
		case 2:
			return f.uint(&d.from, ^uint64(0))
		case 3:
			return f.uint(&d.to, ^uint64(0))
		case 4:
			return d.countRow(f)
		case 5:
			return d.part.decode(f)
		case 6:
			d.atHead = true
			return f.digest(&d.digest)
		case 7:
			return f.fixed(&t)
		}
		return nil
	})
	d.time = int64(t)
	return d, d.check(err)
}

// decodeRows reads a Rows into the form of a Delta without a range.
func decodeRows(b []byte) (d delta, err error) {
	d.rows, d.rowField = b, 2
	err = eachField(b, func(f field) error {
		switch f.num {
		case 1:
			return f.uint(&d.sub, ^uint64(0))
		case 2:
			return d.countRow(f)
		case 3:
			return d.part.decode(f)
		}
		return nil
	})
	return d, d.check(err)
}

func (d *delta) countRow(f field) error {
	if d.count++; d.count > maxRowsPerFrame {
		return errCount
	}
	var row []byte
	if err := f.raw(&row, MaxFrame); err != nil {
		return err
	}
	_, err := decodeRow(row)
	return err
}

func (d *delta) check(err error) error {
	switch {
	case err != nil:
		return err
	case d.to < d.from:
		return errRange
	case d.part.present && d.count > 0:
		return errCount
	}
	return nil
}

// eachRow calls visit for every row of d, which must come from a decoder of this file.
func (d *delta) eachRow(visit func(rawRow) error) error {
	return eachField(d.rows, func(f field) error {
		if f.num != d.rowField {
			return nil
		}
		r, err := decodeRow(f.bytes)
		if err != nil {
			return err
		}
		return visit(r)
	})
}

func (p *part) decode(f field) error {
	var b []byte
	if err := f.raw(&b, MaxFrame); err != nil {
		return err
	}
	p.present = true
	err := eachField(b, func(f field) error {
		switch f.num {
		case 1:
			return f.uint(&p.total, maxRow)
		case 2:
			return f.uint(&p.offset, maxRow)
		case 3:
			return f.raw(&p.data, MaxFrame)
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case len(p.data) == 0:
		return errMissing
	case p.offset+uint64(len(p.data)) > p.total:
		return errRange
	}
	return nil
}

func decodeRow(b []byte) (r rawRow, err error) {
	hasBody := false
	err = eachField(b, func(f field) error {
		switch f.num {
		case 1:
			return f.raw(&r.service, maxName)
		case 2:
			return f.uint(&r.seq, ^uint64(0))
		case 3:
			hasBody = true
			return f.raw(&r.body, maxBody)
		case 4:
			return f.bool(&r.gone)
		case 5:
			return f.uint(&r.hv, ^uint64(0))
		case 6:
			return f.raw(&r.health, maxRow)
		}
		return nil
	})
	if err == nil && (len(r.service) == 0 || r.seq == 0 || hasBody == r.gone) {
		err = errMissing
	}
	return r, err
}

// statement is a Statement that aliases the frame it came in.
type statement struct {
	handle  uint64
	service []byte
	hv      uint64
	slots   []byte
}

// decodeHealth calls visit for every statement of a Health, after having checked them all.
func decodeHealth(b []byte, visit func(statement) error) error {
	check := func(statement) error { return nil }
	for _, step := range []func(statement) error{check, visit} {
		err := eachField(b, func(f field) error {
			if f.num != 1 {
				return nil
			}
			s, err := decodeStatement(f)
			if err != nil {
				return err
			}
			return step(s)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func decodeStatement(f field) (s statement, err error) {
	var b []byte
	if err := f.raw(&b, MaxFrame); err != nil {
		return s, err
	}
	err = eachField(b, func(f field) error {
		switch f.num {
		case 1:
			return f.uint(&s.handle, 1<<30)
		case 2:
			return f.raw(&s.service, maxName)
		case 3:
			return f.uint(&s.hv, ^uint64(0))
		case 4:
			return f.raw(&s.slots, MaxFrame)
		}
		return nil
	})
	if err == nil && s.hv == 0 {
		err = errMissing
	}
	return s, err
}
