package gcptest

import (
	"cmp"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// number is the number of every project.
const number = "123456789012"

// Account is the service account of WriteCredentials.
const Account = "tradewind@" + Project + ".iam.gserviceaccount.com"

// newKey makes the one key that all credentials here have: making an RSA key takes long.
var newKey = sync.OnceValues(func() ([]byte, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	return x509.MarshalPKCS8PrivateKey(key)
})

// WriteCredentials writes the key of a service account whose tokens come from the server at url into dir, and returns the file's name.
func WriteCredentials(dir, url string) (string, error) {
	der, err := newKey()
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(object{"type": "service_account", "project_id": Project, "private_key_id": "1", "client_email": Account,
		"client_id": "1", "token_uri": url + "/token",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))})
	if err != nil {
		return "", err
	}
	name := filepath.Join(dir, "credentials.json")
	return name, os.WriteFile(name, text, 0o600)
}

// token exchanges a signed assertion for an access token (RFC 7523). It does not check the signature.
func (s *Server) token(w http.ResponseWriter, h *http.Request) {
	h.Body = http.MaxBytesReader(w, h.Body, 1<<16)
	if h.FormValue("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" || strings.Count(h.FormValue("assertion"), ".") != 2 {
		write(w, http.StatusBadRequest, object{"error": "invalid_grant", "error_description": "Invalid JWT"}, "")
		return
	}
	s.giveToken(w, Request{Method: "token", Path: h.URL.Path})
}

func (s *Server) giveToken(w http.ResponseWriter, r Request) {
	s.Lock()
	s.tokens++
	answer := object{"access_token": fmt.Sprintf("ya29.gcptest-%d", s.tokens), "token_type": "Bearer",
		"expires_in": int(cmp.Or(s.TokenLast, time.Hour) / time.Second)}
	s.Unlock()
	if s.Meet(r) != nil {
		write(w, http.StatusBadRequest, object{"error": "invalid_grant", "error_description": "Invalid grant: account not found"}, "")
		return
	}
	write(w, http.StatusOK, answer, "")
}

// metadata answers for the metadata server.
func (s *Server) metadata(w http.ResponseWriter, h *http.Request) {
	s.Lock()
	inv := s.inv
	s.Unlock()
	if inv.Self.Silent {
		<-h.Context().Done()
		return
	}
	if !inv.Self.Foreign {
		w.Header().Set("Metadata-Flavor", "Google")
		w.Header().Set("Server", "Metadata Server for VM")
	}
	path := strings.TrimPrefix(h.URL.Path, "/computeMetadata/v1/")
	if h.Header.Get("Metadata-Flavor") != "Google" || h.Header.Get("X-Forwarded-For") != "" {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	if path == "instance/service-accounts/default/token" {
		s.giveToken(w, Request{Method: "metadata", Path: h.URL.Path})
		return
	}
	s.Note(Request{Method: "metadata", Path: h.URL.Path})
	answer, known := inv.self(path)
	if !known {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/text")
	_, _ = io.WriteString(w, answer)
}

func (inv *Inventory) self(path string) (string, bool) {
	if region := inv.Self.Run; region != "" {
		answer, known := map[string]string{"project/project-id": Project, "instance/id": "00ab34cd56ef",
			"instance/region": "projects/" + number + "/regions/" + region}[path]
		return answer, known
	}
	n := slices.IndexFunc(inv.Instances, func(i Instance) bool { return i.Name == inv.Self.Instance })
	if n < 0 {
		return "", false
	}
	i := &inv.Instances[n]
	answer, known := map[string]string{"project/project-id": i.project(), "project/numeric-project-id": number, "instance/id": "4815162342",
		"instance/name": i.Name, "instance/zone": "projects/" + number + "/zones/" + i.zone()}[path]
	return answer, known
}
