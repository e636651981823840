package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/tradewind-mesh/tradewind/e2e/world"
	"github.com/tradewind-mesh/tradewind/federation/peering"
)

// This file has the words of the stories that move bytes.

// serve starts a server in the test's own process. One of kind http answers every request with "SERVICE in REGION"; one of kind told adds
// what it was asked; one of kind echo sends back what it gets.
func (s *story) serve(args []string) (said, error) {
	region, service := args[0], args[1]
	address := s.ts.Getenv(variable(region, service)) // again, after unserve
	if address == "" {
		var err error
		if address, err = world.FreeAddress(); err != nil {
			return said{}, err
		}
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return said{}, err
	}
	s.ts.Setenv(variable(region, service), address)
	if len(args) == 3 && args[2] == "echo" {
		s.closer(region, service, echo(l))
		return said{}, nil
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		told := ""
		if len(args) == 3 && args[2] == "told" {
			told = fmt.Sprintf(": %s %s%s", r.Method, r.Host, r.RequestURI)
		}
		fmt.Fprintf(w, "%s in %s%s\n", service, region, told)
	}))
	server.Listener.Close()
	server.Listener = l
	server.Start()
	s.closer(region, service, func() { server.CloseClientConnections(); server.Close() })
	return said{}, nil
}

func (s *story) closer(region, service string, f func()) {
	s.closers = append(s.closers, f)
	if s.servers == nil {
		s.servers = map[string]func(){}
	}
	s.servers[variable(region, service)] = f
}

func (s *story) unserve(args []string) (said, error) {
	s.servers[variable(args...)]()
	return said{}, nil
}

// echo sends back what every connection of l sends, until the returned function is called.
func echo(l net.Listener) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			context.AfterFunc(ctx, func() { c.Close() })
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c) // it ends with the connection, and nobody asks how
			}()
		}
	}()
	return func() { l.Close(); cancel() }
}

func (s *story) address(args []string) (said, error) {
	address, err := world.FreeAddress()
	s.ts.Setenv(args[0], address)
	return said{}, err
}

func (s *story) get(args []string) (said, error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 3 * time.Second}
	res, err := client.Get(args[0])
	if err != nil {
		return said{err: err.Error() + "\n"}, err
	}
	return answered(res)
}

// request sends one request as curl -i would.
func (s *story) request(args []string) (said, error) {
	req, err := http.NewRequest(args[0], args[1], nil)
	if err != nil {
		return said{}, err
	}
	for _, h := range args[2:] {
		name, value, _ := strings.Cut(h, ":")
		req.Header.Add(name, value)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 3 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(req)
	if err != nil {
		return said{err: err.Error() + "\n"}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	return said{out: fmt.Sprintf("%d %s\n%s", res.StatusCode, res.Header.Get("Location"), body)}, err
}

// call calls a method of the admin API as curl would.
func (s *story) call(args []string) (said, error) {
	url := fmt.Sprintf("http://%s/tradewind.v1.Admin/%s", s.at(args[0]).Admin, args[1])
	req, err := http.NewRequest(http.MethodPost, url, strings.NewReader(args[2]))
	if err != nil {
		return said{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	if len(args) == 4 {
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(s.ts.ReadFile(args[3])))
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 3 * time.Second}
	res, err := client.Do(req)
	if err != nil {
		return said{err: err.Error() + "\n"}, err
	}
	return answered(res)
}

// answered is the body of an answer; one without success is an error.
func answered(res *http.Response) (said, error) {
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err == nil && res.StatusCode != http.StatusOK {
		return said{err: res.Status + "\n" + string(body)}, errors.New(res.Status)
	}
	return said{out: string(body)}, err
}

// A talk is an open connection to a server of kind echo.
type talk struct {
	conn net.Conn
	in   *bufio.Reader
}

const talkLimit = 3 * time.Second // for one line there and back

func (t *talk) line(text string) error {
	if err := t.conn.SetDeadline(time.Now().Add(talkLimit)); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(t.conn, text); err != nil {
		return err
	}
	back, err := t.in.ReadString('\n')
	if err != nil {
		return err
	}
	if back != text+"\n" {
		return fmt.Errorf("sent %q, got %q back", text, back)
	}
	return nil
}

func (s *story) open(args []string) (said, error) {
	conn, err := net.DialTimeout("tcp", args[1], talkLimit)
	if err == nil && len(args) == 6 {
		conn, err = secure(conn, s.ts.MkAbs(args[3]), args[5])
	}
	if err != nil {
		return said{err: err.Error() + "\n"}, err
	}
	t := &talk{conn: conn, in: bufio.NewReader(conn)}
	if err := t.line("hello"); err != nil {
		conn.Close()
		return said{err: err.Error() + "\n"}, err
	}
	s.conns[args[0]] = t
	return said{}, nil
}

// secure speaks TLS as a workload with the identity of "tradewind cert issue": its keys are in path.key and path.crt, and the
// gateway must show a certificate of the region's own roots, in bundle.crt beside them.
func secure(conn net.Conn, path, serverName string) (net.Conn, error) {
	pair, err := tls.LoadX509KeyPair(path+".crt", path+".key")
	if err != nil {
		return nil, err
	}
	bundle, err := os.ReadFile(filepath.Join(filepath.Dir(path), "bundle.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(bundle) {
		return nil, errors.New("bundle.crt holds no certificate")
	}
	return tls.Client(conn, &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, ServerName: serverName,
		InsecureSkipVerify: true, // a SPIFFE ID is no host name: the chain is verified below instead
		VerifyConnection: func(state tls.ConnectionState) error {
			_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
			return err
		},
	}), nil
}

func (s *story) talk(name string) *talk {
	t := s.conns[name]
	if t == nil {
		s.ts.Fatalf("there is no connection %s: write \"open %s ADDRESS\" first", name, name)
	}
	return t
}

func (s *story) say(args []string) (said, error) { return said{}, s.talk(args[0]).line(args[1]) }

func (s *story) hangup(args []string) (said, error) { return said{}, s.talk(args[0]).conn.Close() }

func (s *story) reset(args []string) (said, error) {
	t := s.talk(args[0])
	if err := t.conn.SetDeadline(s.began.Add(duration(s.ts, args[1]))); err != nil {
		return said{}, err
	}
	_, err := t.in.ReadByte()
	if !errors.Is(err, syscall.ECONNRESET) {
		return said{}, fmt.Errorf("no reset: %v", err)
	}
	s.ts.Logf("reset %v after the order", time.Since(s.began).Round(time.Millisecond))
	return said{}, nil
}

// setFormat writes the version of the store's format into state.db, in the form of the store's records: version, CRC-32C of
// key, version and value, value.
func (s *story) setFormat(args []string) (said, error) {
	db, err := bolt.Open(filepath.Join(s.at(args[0]).Data(), "state.db"), 0o600, &bolt.Options{Timeout: time.Second})
	if err != nil {
		return said{}, err
	}
	defer db.Close()
	return said{}, db.Update(func(tx *bolt.Tx) error {
		own, key := tx.Bucket([]byte("tradewind")), []byte("format")
		if own == nil || own.Get(key) == nil {
			return errors.New("state.db has no record of its format where this test looks for it")
		}
		record := make([]byte, 12)
		sum := crc32.Checksum([]byte("format"+string(record[:8])+args[1]), crc32.MakeTable(crc32.Castagnoli))
		binary.BigEndian.PutUint32(record[8:], sum)
		return own.Put(key, append(record, args[1]...))
	})
}

// forge changes a token and mends its checksum. With "expiry" it is one whose time is over, with "secret" one that was guessed.
func (s *story) forge(args []string) (said, error) {
	token, err := peering.ParseToken(s.ts.ReadFile(args[0]))
	if err != nil {
		return said{}, err
	}
	switch args[2] {
	case "expiry":
		token.Expires = token.Expires.Add(-time.Hour)
	case "secret":
		token.Secret[0] ^= 1
	default:
		return said{}, fmt.Errorf("a token has no %s to change", args[2])
	}
	text, err := token.Encode()
	if err != nil {
		return said{}, err
	}
	return said{}, os.WriteFile(s.ts.MkAbs(args[1]), []byte(text+"\n"), 0o600)
}
