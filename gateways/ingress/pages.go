package ingress

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync/atomic"

	"github.com/tradewind-mesh/tradewind/federation"
)

// page is what stands in place of an answer of the gateway's own.
type page struct {
	kind string
	body []byte
	from *pageFile // instead of body
}

// pageFile is the file of a page. What was read last stays in use.
type pageFile struct {
	path    string
	seen    stamp
	problem error
	body    atomic.Pointer[[]byte] // nil: nothing was read yet
}

// newPages prepares pages, by status. files holds those of body_file.
func newPages(specs []federation.ErrorPage, files map[string]*pageFile) map[int]page {
	if len(specs) == 0 {
		return nil
	}
	out := map[int]page{}
	for _, spec := range specs {
		p := page{kind: cmp.Or(spec.ContentType, federation.DefaultPageType), body: []byte(spec.Body), from: files[spec.BodyFile]}
		for _, status := range spec.Status {
			out[status] = p
		}
	}
	return out
}

// show puts p in the place of res, unless there is none to show.
func (p page) show(res *http.Response) {
	body := p.body
	if p.from != nil {
		read := p.from.body.Load()
		if read == nil {
			return
		}
		body = *read
	}
	res.Header["Content-Type"] = []string{p.kind}
	res.Body, res.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
}

// look reads the file if it has changed.
func (f *pageFile) look() {
	info, err := os.Stat(f.path)
	if err != nil {
		f.problem, f.seen = err, stamp{} // when it is back it is read, whatever it looks like
		return
	}
	if f.seen.same(stamp{info}) {
		return
	}
	f.seen = stamp{info}
	body, err := readPage(f.path)
	if f.problem = err; err == nil {
		f.body.Store(&body)
	}
}

var (
	errPrivate   = errors.New("not everybody on this host may read it, so nobody outside is shown it: who may write resources may not have the gateway publish its secrets")
	errNoFile    = errors.New("it is no regular file")
	errPageLarge = fmt.Errorf("it has more than %v", federation.MaxErrorPage)
)

func readPage(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	switch info, err := f.Stat(); {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s: %w", path, errNoFile)
	case info.Mode().Perm()&0o004 == 0:
		return nil, fmt.Errorf("%s: %w", path, errPrivate)
	}
	body, err := io.ReadAll(io.LimitReader(f, int64(federation.MaxErrorPage)+1))
	switch {
	case err != nil:
		return nil, err
	case len(body) > int(federation.MaxErrorPage):
		return nil, fmt.Errorf("%s: %w", path, errPageLarge)
	}
	return body, nil
}

// pagesOf is every error page of g.
func pagesOf(g *federation.Ingress) []federation.ErrorPage {
	all := g.ErrorPages[:len(g.ErrorPages):len(g.ErrorPages)]
	for _, h := range g.Hosts {
		all = append(all, h.ErrorPages...)
	}
	return all
}

// adoptPages makes the files of pages those that are wanted. New ones are read at once. s.mu is held.
func (s *Server) adoptPages() {
	keep := map[string]*pageFile{}
	for i := range s.wanted {
		for _, p := range pagesOf(&s.wanted[i]) {
			if p.BodyFile == "" || keep[p.BodyFile] != nil {
				continue
			}
			if keep[p.BodyFile] = s.pages[p.BodyFile]; keep[p.BodyFile] == nil {
				keep[p.BodyFile] = &pageFile{path: p.BodyFile}
				keep[p.BodyFile].look()
			}
		}
	}
	s.pages = keep
}

// pageProblems is what is wrong with the pages of g, for people. s.mu is held.
func (s *Server) pageProblems(g *federation.Ingress) []*federation.Diagnostic {
	var list []*federation.Diagnostic
	told := map[string]bool{}
	for _, p := range pagesOf(g) {
		f := s.pages[p.BodyFile]
		if f == nil || f.problem == nil || told[f.path] {
			continue
		}
		told[f.path] = true
		what := fmt.Sprintf("an error page of ingress %q cannot be used", g.Name)
		if f.body.Load() != nil {
			what = fmt.Sprintf("a new error page of ingress %q cannot be used; the last one is", g.Name)
		}
		list = append(list, &federation.Diagnostic{Code: federation.CodeIngressPage, What: what, Why: f.problem.Error(), Err: f.problem,
			Fix: fmt.Sprintf("put a file of at most %v there, readable by everybody", federation.MaxErrorPage)})
	}
	return list
}
