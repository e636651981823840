package admin

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/tradewind-mesh/tradewind/federation"
)

// TokenFile is the name of the token's file in the gateway's data directory.
const TokenFile = "admin.token"

const tokenBytes = 32 // 256 bits: nobody guesses it

// loadToken reads the token from path, or writes a new one when there is no such file.
func loadToken(path string) (string, error) {
	token, err := ReadToken(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return token, err
	}
	var raw [tokenBytes]byte
	rand.Read(raw[:]) // never fails: see crypto/rand
	token = base64.RawURLEncoding.EncodeToString(raw[:])
	if err := writeNew(path, token+"\n"); err != nil {
		return "", &federation.Diagnostic{Code: "TW-8012", What: "cannot write the admin token " + path, Why: err.Error(),
			Fix: "let the gateway write its data_dir, or set admin.listen to \"\"", Err: err}
	}
	return token, nil
}

// writeNew writes a file that only its owner may read, in one step: nobody ever sees half of it.
func writeNew(path, content string) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".token-*") // with mode 0600
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// ReadToken reads the token from path. A file that others may read is refused: the token would be everybody's.
func ReadToken(path string) (string, error) {
	fail := func(why, fix string, err error) error {
		return &federation.Diagnostic{Code: "TW-8012", What: "cannot use the admin token " + path, Why: why, Fix: fix, Err: err}
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", fail(err.Error(), "name the file with --token-file, or use the gateway's socket instead", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", fail(fmt.Sprintf("others may read it (mode %04o)", info.Mode().Perm()),
			"delete the file and restart the gateway, which writes a new token", nil)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return "", fail(err.Error(), "run this as the gateway's user, or use the gateway's socket instead", err)
	}
	token := strings.TrimSpace(string(content))
	if raw, err := base64.RawURLEncoding.DecodeString(token); err != nil || len(raw) != tokenBytes {
		return "", fail("it does not hold a token", "delete the file and restart the gateway, which writes a new token", nil)
	}
	return token, nil
}

// sameToken compares in constant time, whatever the lengths.
func sameToken(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}
