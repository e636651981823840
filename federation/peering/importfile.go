package peering

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
)

// A saved import is one file, <dir>/imports/<region>.cx: magic, trust domain of the peer, length, payload, SHA-256 of all
// that. It is written beside its final name and renamed, so that a reader finds the old one or the new one.
const (
	importMagic   = "TWCXI\x001\n"
	importSuffix  = ".cx"
	maxImportFile = 96 << 20 // above the memory account of a peer, below what would hurt at start
)

// saveJob is an import to be written by the manager's saver.
type saveJob struct {
	region federation.Region
	domain spiffeid.TrustDomain
	data   []byte
	done   chan error // capacity 1
}

type importDir struct{ dir string }

func (d importDir) path(region federation.Region) string {
	return filepath.Join(d.dir, "imports", string(region)+importSuffix)
}

func (d importDir) prepare() error {
	if err := os.MkdirAll(filepath.Join(d.dir, "imports"), 0o700); err != nil {
		return importTrouble("directory of saved imports cannot be made", err)
	}
	return nil
}

// read returns the payload saved for region, or nil when there is none. A file that is damaged, or of a peer with another
// trust domain, is set aside under another name and reported.
func (d importDir) read(region federation.Region, domain spiffeid.TrustDomain) ([]byte, error) {
	path := d.path(region)
	data, err := readImport(path, domain)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return data, nil
	}
	if moved := os.Rename(path, path+".damaged"); moved != nil {
		err = errors.Join(err, moved)
	}
	return nil, importTrouble(fmt.Sprintf("saved import of %s cannot be used", region), err)
}

func readImport(path string, domain spiffeid.TrustDomain) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxImportFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxImportFile {
		return nil, fmt.Errorf("it is larger than %d octets", maxImportFile)
	}
	return decodeImport(b, domain)
}

// encodeImport frames data.
func encodeImport(domain spiffeid.TrustDomain, data []byte) []byte {
	e := encoder{b: make([]byte, 0, len(importMagic)+2+len(domain.Name())+8+len(data)+sha256.Size)}
	e.raw([]byte(importMagic))
	e.text(domain.Name())
	e.u64(uint64(len(data)))
	e.raw(data)
	sum := sha256.Sum256(e.b)
	e.raw(sum[:])
	return e.b
}

// decodeImport is the inverse. It trusts nothing: disks tear and rot.
func decodeImport(b []byte, domain spiffeid.TrustDomain) ([]byte, error) {
	body, found := bytes.CutPrefix(b, []byte(importMagic))
	if !found {
		return nil, errors.New("it is no saved import of this version")
	}
	if len(body) < sha256.Size {
		return nil, errShort
	}
	cut := len(b) - sha256.Size
	if sum := sha256.Sum256(b[:cut]); !bytes.Equal(sum[:], b[cut:]) {
		return nil, errors.New("its checksum is wrong")
	}
	d := decoder{b: body[:len(body)-sha256.Size]}
	owner := d.text("trust domain", maxDomain)
	size := d.take(8)
	if d.err != nil {
		return nil, d.err
	}
	if owner != domain.Name() {
		return nil, fmt.Errorf("it belongs to trust domain %q, and the peer's is %q", owner, domain)
	}
	if binary.BigEndian.Uint64(size) != uint64(len(d.b)) {
		return nil, errShort
	}
	return d.b, nil
}

// write replaces the file of region. When it returns nil, the new content is on disk.
func (d importDir) write(region federation.Region, domain spiffeid.TrustDomain, data []byte) error {
	path := d.path(region)
	if err := writeImport(path, encodeImport(domain, data)); err != nil {
		return importTrouble(fmt.Sprintf("import of %s cannot be saved", region), err)
	}
	return nil
}

func writeImport(path string, b []byte) error {
	temp := path + ".new"
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync() // before the rename, or a crash leaves an empty file under the final name
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		_ = os.Remove(temp) // the error that counts is err
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// remove deletes what is saved of region, in whatever state it is.
func (d importDir) remove(region federation.Region) {
	for _, suffix := range []string{"", ".new", ".damaged"} {
		_ = os.Remove(d.path(region) + suffix) // most are not there; what stays is removed by the next start
	}
}

// keepOnly deletes the files of regions that keep does not name: a crash can come between a removal and its file's.
func (d importDir) keepOnly(keep func(federation.Region) bool) {
	files, err := os.ReadDir(filepath.Join(d.dir, "imports"))
	if err != nil {
		return
	}
	for _, f := range files {
		name, _, found := strings.Cut(f.Name(), importSuffix)
		if region, err := federation.ParseRegion(name); found && err == nil && !keep(region) {
			d.remove(region)
		}
	}
}

func importTrouble(what string, err error) *federation.Diagnostic {
	return &federation.Diagnostic{
		Code: federation.CodeImportFile,
		What: what,
		Why:  err.Error(),
		Fix:  "check space and permissions of the state directory; the services come back with the next session",
		Err:  err,
	}
}
