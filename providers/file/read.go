package file

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/tradewind-mesh/tradewind/federation"
)

// set is what the files held when they were read.
type set struct {
	instances []federation.Instance
	print     print
	valid     bool
}

// print tells one state of the files from another without reading them.
type print []stamp

type stamp struct {
	path string
	info fs.FileInfo // links followed
}

func (p print) equal(q print) bool {
	return slices.EqualFunc(p, q, func(a, b stamp) bool {
		return a.path == b.path && os.SameFile(a.info, b.info) && a.info.Size() == b.info.Size() && a.info.ModTime().Equal(b.info.ModTime())
	})
}

// read reads all files of path: each valid and none changed meanwhile, or an error. The print is set in both cases, unless
// the files could not even be listed.
func read(path string) (set, *federation.Diagnostic) {
	before, err := look(path)
	if err != nil {
		return set{}, err
	}
	out := set{print: before}
	for _, s := range before {
		data, err := slurp(s.path, maxFile)
		if err != nil {
			return out, unreadable(s.path, err)
		}
		data = bytes.TrimPrefix(data, []byte("\ufeff")) // editors of Windows write one
		instances, bad := decode(data)
		if bad != nil {
			return out, malformed(s.path, data, bad)
		}
		out.instances = append(out.instances, instances...)
	}
	after, err := look(path)
	if err != nil {
		return out, err
	}
	if !before.equal(after) {
		// Files of two states must not make one set. The next poll finds another print and reads again.
		return out, unreadable(path, errors.New("it changed while it was read"))
	}
	out.valid = true
	return out, nil
}

// look lists the files of path, in order of name, and their states.
func look(path string) (print, *federation.Diagnostic) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, unreadable(path, err)
	}
	files := []string{path}
	if info.IsDir() {
		entries, err := os.ReadDir(path)
		if err != nil {
			return nil, unreadable(path, err)
		}
		files = nil
		for _, e := range entries {
			if strings.HasSuffix(e.Name(), ".json") && !strings.HasPrefix(e.Name(), ".") {
				files = append(files, filepath.Join(path, e.Name()))
			}
		}
		if len(files) == 0 {
			return nil, &federation.Diagnostic{Code: federation.CodeFileEmptyDirectory, What: fmt.Sprintf("directory %s holds no *.json file", path),
				Why: "that is what a lost mount looks like, so the last valid set stays in use",
				Fix: "to withdraw all instances, write a file with {\"instances\": []}"}
		}
	}
	if len(files) > maxFiles {
		return nil, tooLarge(path, fmt.Sprintf("it holds %d files, at most %d are read", len(files), maxFiles))
	}
	var total int64
	out := make(print, 0, len(files))
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil {
			return nil, unreadable(file, err)
		}
		if !info.Mode().IsRegular() {
			return nil, unreadable(file, errors.New("it is not a regular file"))
		}
		total += info.Size()
		if info.Size() > maxFile || total > maxTotal {
			return nil, tooLarge(file, fmt.Sprintf("one file may have %d MiB, all files %d MiB", maxFile>>20, maxTotal>>20))
		}
		out = append(out, stamp{file, info})
	}
	return out, nil
}

// slurp reads a regular file, no more of it than allowed.
func slurp(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe put in the file's place must not stop us
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, errors.New("it is not a regular file"))
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = errors.New("it grew beyond the limit while it was read")
	}
	return data, err
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func unreadable(path string, err error) *federation.Diagnostic {
	var p *fs.PathError
	why := err.Error()
	if errors.As(err, &p) {
		why = p.Err.Error() // the path is named already
	}
	return &federation.Diagnostic{Code: federation.CodeFileUnreadable, What: fmt.Sprintf("%s cannot be read", path), Why: why,
		Fix: "restore it; until then the last valid set stays in use", Err: err}
}

func tooLarge(path, why string) *federation.Diagnostic {
	return &federation.Diagnostic{Code: federation.CodeFileTooLarge, What: fmt.Sprintf("%s is too large", path), Why: why,
		Fix: "split the workload over several sources, or check what writes the file"}
}

func malformed(path string, data []byte, bad *mistake) *federation.Diagnostic {
	line, column := position(data, bad.offset)
	return &federation.Diagnostic{Code: federation.CodeFileMalformed, What: fmt.Sprintf("%s:%d:%d is not valid", path, line, column),
		Why: bad.Error(), Fix: bad.fix, Err: bad}
}
