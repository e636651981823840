package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/e2e/world"
)

// shopHCL declares, in the region that serves, what the programs below listen on.
const shopHCL = `
service "web" {
  protocol = "http"
  instance "nginx" { address = "127.0.0.1:8080" }
  check "http" { path = "/" }
}
service "cache" {
  instance "redis" { address = "127.0.0.1:6379" }
  check "tcp" {}
}
service "db" {
  instance "postgres" { address = "127.0.0.1:5432" }
  check "tcp" {}
}
service "count" {
  instance "socat" { address = "127.0.0.1:7001" }
}
service "echo" {
  instance "socat" { address = "127.0.0.1:7002" }
}
service "upload" {
  instance "socat" { address = "127.0.0.1:7003" }
}
export "web" { to = ["*"] }
export "cache" { to = ["*"] }
export "db" { to = ["*"] }
export "count" { to = ["*"] }
export "echo" { to = ["*"] }
export "upload" { to = ["*"] }
intention "client-in" {
  source      = "client@gcp-europe-west1"
  destination = "*"
  action      = "allow"
}
`

// clientHCL declares, in the region that calls, a listener for each service.
func clientHCL() string {
	text := "intention \"client-out\" {\n  source = \"client\"\n  destination = \"*@*\"\n  action = \"allow\"\n}\n"
	for i, name := range []string{"web", "cache", "db", "count", "echo", "upload"} {
		text += fmt.Sprintf("upstream %q {\n  service = %q\n  listen = \"127.0.0.1:%d\"\n  caller = \"client\"\n}\n", name, name, 9001+i)
	}
	return text
}

// TestRealPrograms sends the traffic of programs that nobody here wrote from one cloud to another.
func TestRealPrograms(t *testing.T) {
	world.Programs(t, "nginx", "redis-server", "redis-benchmark", "socat", "curl", "sha256sum", "psql")
	regions := world.Regions(t, "", "aws-us-east-1", "gcp-europe-west1")
	aws, gcp := regions[0], regions[1]
	big := filepath.Join(t.TempDir(), "big")
	sum := makeBig(t, aws, big)
	startServers(t, aws, filepath.Dir(big))
	aws.Apply(shopHCL)
	gcp.Apply(clientHCL())
	world.Federate(t, aws, gcp)
	for port := 9001; port <= 9003; port++ {
		waitOpen(t, gcp, port)
	}

	t.Run("idle", func(t *testing.T) {
		t.Parallel() // it waits most of the time, beside all the others
		out := gcp.In(t).Run(90*time.Second, "sh", "-c", "(echo before; sleep 45; echo after) | socat -t 5 - TCP:127.0.0.1:9005")
		if out != "before\nafter\n" {
			t.Fatalf("a connection that was idle for 45 s, longer than every transport timeout, carried %q", out)
		}
	})
	t.Run("traffic", func(t *testing.T) {
		t.Parallel()
		t.Run("half-close", func(t *testing.T) { halfClose(t, gcp.In(t)) })
		t.Run("redis-benchmark", func(t *testing.T) { redisBenchmark(t, gcp.In(t)) })
		t.Run("pgbench", func(t *testing.T) { pgbench(t, gcp.In(t)) })
		t.Run("download 1 GiB", func(t *testing.T) {
			begin := time.Now()
			got := gcp.In(t).Run(5*time.Minute, "sh", "-c", "curl -sS --fail http://127.0.0.1:9001/big | sha256sum")
			if !strings.HasPrefix(got, sum) {
				t.Fatalf("1 GiB arrived with another SHA-256: %s, want %s", got, sum)
			}
			t.Logf("1 GiB down in %v", time.Since(begin).Round(time.Millisecond))
		})
		t.Run("upload 1 GiB", func(t *testing.T) { upload(t, aws.In(t), gcp.In(t), big, sum) })
	})
}

func makeBig(t *testing.T, c *world.Region, path string) string {
	t.Helper()
	if err := os.Chmod(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	c.Run(time.Minute, "sh", "-c", "head -c 1073741824 /dev/urandom >"+path+"; chmod 644 "+path)
	return strings.Fields(c.Run(time.Minute, "sha256sum", path))[0]
}

// startServers starts nginx, redis, PostgreSQL and socat in the cloud, on its loopback.
func startServers(t *testing.T, c *world.Region, root string) {
	t.Helper()
	startNginx(c, 8080, root, c.Name)
	c.Start("redis-server", "--bind", "127.0.0.1", "--port", "6379", "--save", "", "--dir", c.Dir)
	startPostgres(t, c)
	c.Start("socat", "TCP-LISTEN:7001,bind=127.0.0.1,reuseaddr,fork", "SYSTEM:wc -c")
	c.Start("socat", "TCP-LISTEN:7002,bind=127.0.0.1,reuseaddr,fork", "EXEC:cat")
	c.Start("socat", "-u", "TCP-LISTEN:7003,bind=127.0.0.1,reuseaddr", "CREATE:"+filepath.Join(c.Dir, "uploaded"))
}

// startNginx serves root on a loopback port, and the region's name under /region.
func startNginx(c *world.Region, port int, root, region string) *world.Process {
	conf := c.Write(fmt.Sprintf("nginx-%d.conf", port), fmt.Sprintf(`
daemon off; user root; pid %[1]s/nginx-%[2]d.pid; error_log stderr; worker_processes 1;
events { worker_connections 4096; }
http {
  access_log off; sendfile on; keepalive_requests 1000000;
  server {
    listen 127.0.0.1:%[2]d;
    location / { root %[3]s; try_files $uri /region; }
    location = /region { return 200 "%[4]s\n"; }
  }
}`, c.Dir, port, root, region))
	return c.Start("nginx", "-c", conf, "-p", c.Dir)
}

func startPostgres(t *testing.T, c *world.Region) {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil || len(found) == 0 {
		t.Fatal("PostgreSQL's server is not installed: .ci/run lists the Debian packages")
	}
	bin := filepath.Dir(found[len(found)-1])
	// PostgreSQL refuses to run as root, and its user must reach the data directory through every directory above it.
	data, err := os.MkdirTemp("/tmp", "tradewind-pg-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(data) })
	c.Run(10*time.Second, "chown", "postgres", data)
	as := []string{"-u", "postgres", "--"}
	c.Run(time.Minute, "runuser", append(as, filepath.Join(bin, "initdb"), "-D", data+"/db", "-A", "trust", "--no-sync")...)
	server := c.Start("runuser", append(as, filepath.Join(bin, "postgres"), "-D", data+"/db", "-h", "127.0.0.1", "-k", data, "-c", "fsync=off")...)
	t.Cleanup(server.Kill) // before its directory is removed
	world.Until(t, 30*time.Second, "PostgreSQL", func() error {
		_, err := c.Try(5*time.Second, "psql", "-h", "127.0.0.1", "-U", "postgres", "-c", "select 1")
		return err
	})
}

// waitOpen waits until a connection through the upstream at port is answered or at least stays open.
func waitOpen(t *testing.T, c *world.Region, port int) {
	t.Helper()
	world.Until(t, 20*time.Second, fmt.Sprintf("a connection through port %d", port), func() error {
		conn, err := c.Dial(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
			return err
		}
		if _, err = conn.Read(make([]byte, 1)); os.IsTimeout(err) {
			return nil // open, and the server waits for us to speak first
		}
		return err
	})
}

func halfClose(t *testing.T, c *world.Region) {
	out := c.Run(20*time.Second, "sh", "-c", "printf 'hello, mesh' | socat -t 10 - TCP:127.0.0.1:9004")
	if strings.TrimSpace(out) != "11" {
		t.Fatalf("the server's answer after the client's end of file was %q, want 11 bytes counted", out)
	}
}

func redisBenchmark(t *testing.T, c *world.Region) {
	out := c.Run(2*time.Minute, "redis-benchmark", "-h", "127.0.0.1", "-p", "9002", "-n", "50000", "-c", "50", "-t", "set,get", "-q")
	rates := regexp.MustCompile(`(SET|GET): ([0-9.]+) requests per second`).FindAllStringSubmatch(out, -1)
	if len(rates) != 2 || strings.Contains(strings.ToLower(out), "error") {
		t.Fatalf("redis-benchmark says:\n%s", out)
	}
	t.Logf("redis-benchmark: SET %s/s, GET %s/s, no error", rates[0][2], rates[1][2])
}

func pgbench(t *testing.T, c *world.Region) {
	at := []string{"-h", "127.0.0.1", "-p", "9003", "-U", "postgres"}
	program := "pgbench"
	if found, err := filepath.Glob("/usr/lib/postgresql/*/bin/pgbench"); err == nil && len(found) > 0 {
		program = found[len(found)-1]
	}
	c.Run(time.Minute, program, append(at, "-i", "-q", "-s", "2", "postgres")...)
	out := c.Run(time.Minute, program, append(at, "-c", "8", "-T", "8", "-n", "postgres")...)
	failed := regexp.MustCompile(`number of failed transactions: (\d+)`).FindStringSubmatch(out)
	tps := regexp.MustCompile(`tps = ([0-9.]+)`).FindStringSubmatch(out)
	if failed == nil || failed[1] != "0" || tps == nil {
		t.Fatalf("pgbench says:\n%s", out)
	}
	t.Logf("pgbench: %s transactions a second, 0 failed", tps[1])
}

func upload(t *testing.T, server, client *world.Region, big, sum string) {
	begin := time.Now()
	client.Run(5*time.Minute, "socat", "-u", "FILE:"+big, "TCP:127.0.0.1:9006")
	received := filepath.Join(server.Dir, "uploaded")
	world.Until(t, time.Minute, "the last byte of the upload", func() error {
		info, err := os.Stat(received)
		if err == nil && info.Size() < 1<<30 {
			err = fmt.Errorf("%d bytes so far", info.Size())
		}
		return err
	})
	t.Logf("1 GiB up in %v", time.Since(begin).Round(time.Millisecond))
	if got := strings.Fields(server.Run(time.Minute, "sha256sum", received))[0]; got != sum {
		t.Fatalf("1 GiB arrived with SHA-256 %s, want %s", got, sum)
	}
}
