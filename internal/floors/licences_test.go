package floors

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// licences tells the text of a licence by a sentence that only it has; the first that is found counts. All of these may be linked into
// a program under Apache-2.0: MPL-2.0 asks for the source of its own files alone (section 3.3). What asks for more is missing here.
var licences = []struct{ name, sentence string }{
	{"Apache-2.0", "Apache License Version 2.0"},
	{"MPL-2.0", "Mozilla Public License"},
	{"CC0-1.0", "CC0 1.0 Universal"},
	{"MIT", "Permission is hereby granted, free of charge, to any person obtaining a copy"},
	{"ISC", "Permission to use, copy, modify, and/or distribute this software for any purpose"},
	{"ISC", "Permission to use, copy, modify, and distribute this software for any purpose"},
	{"BSD", "Redistribution and use in source and binary forms, with or without modification, are permitted"},
}

// licenceFile are the names that licences have.
var licenceFile = regexp.MustCompile(`(?i)^(un)?licen[cs]e|^copying`)

// licenceOf returns the name of the licence whose text this is, or "".
func licenceOf(text string) string {
	text = strings.Join(strings.Fields(strings.ReplaceAll(text, "\n> ", "\n")), " ") // some quote it
	for _, l := range licences {
		if strings.Contains(text, l.sentence) {
			return l.name
		}
	}
	return ""
}

// TestLicences holds that every module that is linked into a program has a licence, and one that Apache-2.0 gets along with.
func TestLicences(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=Module", "./cmd/...")
	cmd.Dir = filepath.Join("..", "..")
	var problems bytes.Buffer
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("list the dependencies: %v: %s", err, problems.String())
	}
	found := map[string]string{} // by module
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			Module *struct {
				Path, Dir string
				Main      bool
			}
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if m := p.Module; m != nil && found[m.Path] == "" {
			found[m.Path] = licenceIn(t, m.Dir)
			if found[m.Path] == "" || m.Main && found[m.Path] != "Apache-2.0" {
				t.Errorf("%s: no licence was found that may be linked; read what is in %s", m.Path, m.Dir)
			}
		}
	}
	if len(found) < 50 {
		t.Errorf("only %d modules were found", len(found))
	}
	by := map[string]int{}
	for _, l := range found {
		by[l]++
	}
	t.Logf("%d modules: %v", len(found), by)
}

// licenceIn returns the licence of the module in dir; of several files, each must be one that may be linked.
func licenceIn(t *testing.T, dir string) (name string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if f.IsDir() || !licenceFile.MatchString(f.Name()) || strings.HasSuffix(f.Name(), ".go") {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if name = licenceOf(string(b)); name == "" {
			return ""
		}
	}
	return name
}

func TestWhichLicencesMayNot(t *testing.T) {
	for text, want := range map[string]string{
		"GNU LESSER GENERAL PUBLIC LICENSE\n   Version 3, 29 June 2007": "",
		"GNU GENERAL PUBLIC LICENSE\n\tVersion 2, June 1991":            "",
		"GNU AFFERO GENERAL PUBLIC LICENSE\n Version 3":                 "",
		"Business Source License 1.1":                                   "",
		"all rights reserved":                                           "",
		"   Apache License\n      Version 2.0, January 2004":            "Apache-2.0",
		"Redistribution and use in source and binary\nforms, with or without\n modification, are permitted provided": "BSD",
	} {
		if got := licenceOf(text); got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
}
