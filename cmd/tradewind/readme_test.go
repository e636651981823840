package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/spf13/cobra"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/config"
)

// pages are the documents that people copy from.
var pages = []string{"README.md", "CONTRIBUTING.md", "CHANGELOG.md"}

func readPage(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var (
	fenced = regexp.MustCompile("(?s)```hcl\n(.*?)```")
	// catted is a file as "cat FILE.hcl" shows it, up to the next prompt or the end of what is indented.
	catted   = regexp.MustCompile(`(?m)^( +)\w+\$ cat \S+\.hcl\n((?: +[^\s$]+ .*\n| +}\n)+?)(?: +\w+\$|\n)`)
	oneLine  = regexp.MustCompile(`^(mesh|jwks) \{ \w+ = .* \}$`) // a block of gateway.hcl
	codeSpan = regexp.MustCompile("`([^`\n]+)`")
)

// TestBlocksInDocuments holds that every block of HCL in a document can be pasted: as resources, or as a part of gateway.hcl.
func TestBlocksInDocuments(t *testing.T) {
	found := 0
	for _, page := range pages {
		text := readPage(t, page)
		var blocks []string
		for _, m := range fenced.FindAllStringSubmatch(text, -1) {
			blocks = append(blocks, m[1])
		}
		for _, m := range catted.FindAllStringSubmatch(text, -1) {
			blocks = append(blocks, m[2])
		}
		for _, m := range codeSpan.FindAllStringSubmatch(text, -1) {
			if oneLine.MatchString(m[1]) && !strings.Contains(m[1], "...") {
				blocks = append(blocks, m[1]+"\n")
			}
		}
		for _, block := range blocks {
			found++
			acceptBlock(t, page, block)
		}
	}
	if found < 10 {
		t.Errorf("%d blocks were found: the patterns of this test do not fit the documents any more", found)
	}
}

// acceptBlock reads what is a resource in block as one, and the rest as gateway.hcl.
func acceptBlock(t *testing.T, page, block string) {
	t.Helper()
	file, diags := hclsyntax.ParseConfig([]byte(block), page, hcl.InitialPos)
	if diags.HasErrors() {
		t.Errorf("%s: %v\n%s", page, diags, block)
		return
	}
	var resources string
	gateway := "region = \"home\"\n"
	for _, b := range file.Body.(*hclsyntax.Body).Blocks {
		part := block[b.TypeRange.Start.Byte:b.CloseBraceRange.End.Byte]
		if slices.Contains(federation.Kinds(), federation.Kind(b.Type)) {
			resources += part + "\n"
		} else {
			gateway += part + "\n"
		}
	}
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if _, err := config.ParseResources(write("resources.hcl", resources)); err != nil && resources != "" {
		t.Errorf("%s: %v\n%s", page, err, block)
	}
	if _, err := config.Load(write("gateway.hcl", gateway)); err != nil {
		t.Errorf("%s: %v\n%s", page, err, block)
	}
}

// TestCommandsInDocuments holds that every command of a document and of an example in the help is one, with flags and arguments that it
// takes.
func TestCommandsInDocuments(t *testing.T) {
	lines := map[string][]string{}
	for _, page := range pages {
		text := readPage(t, page)
		for _, m := range codeSpan.FindAllStringSubmatch(text, -1) {
			if strings.HasPrefix(m[1], "tradewind ") || strings.HasPrefix(m[1], "bin/tradewind ") {
				lines[page] = append(lines[page], m[1])
			}
		}
		for line := range strings.Lines(text) {
			if _, command, ok := strings.Cut(line, "$ "); ok && strings.HasPrefix(line, "    ") && strings.Contains(command, "tradewind ") {
				lines[page] = append(lines[page], command)
			}
		}
	}
	if n := len(lines["README.md"]); n < 20 {
		t.Errorf("%d commands were found in README.md: the patterns of this test do not fit it any more", n)
	}
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		for line := range strings.Lines(cmd.Example) {
			lines[cmd.CommandPath()+" --help"] = append(lines[cmd.CommandPath()+" --help"], line)
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk((&cli{}).root())
	for where, list := range lines {
		for _, line := range list {
			for command := range strings.SplitSeq(line, "&&") {
				for _, one := range alternatives(command) {
					if problem := takesLine(one); problem != "" {
						t.Errorf("%s: %s: %s", where, strings.TrimSpace(one), problem)
					}
				}
			}
		}
	}
}

var (
	program = regexp.MustCompile(`(?:^|\s|bin/)tradewind\s`)
	// inShell are the words of a line as a shell would see them, as far as documents go.
	inShell = regexp.MustCompile(`'[^']*'|"[^"]*"|[^\s'"]+`)
)

// alternatives are the commands that "peer pause|resume" stands for.
func alternatives(command string) (all []string) {
	start, choice, ok := strings.Cut(command, "|")
	if i := strings.LastIndex(start, " "); ok && i >= 0 && choice != "" && choice[0] != ' ' {
		for _, last := range strings.Split(start[i+1:]+"|"+choice, "|") {
			all = append(all, start[:i+1]+last)
		}
		return all
	}
	return []string{command}
}

// takesLine says what is wrong with a command line, "" if nothing. A line that names a command and no more, as prose does, may lack its
// arguments.
func takesLine(line string) string {
	at := program.FindStringIndex(line)
	if at == nil {
		return ""
	}
	var args []string
	for _, word := range inShell.FindAllString(line[at[1]:], -1) {
		if word == "#" || word == "|" || word == ">" {
			break
		}
		args = append(args, strings.Trim(word, `'"`))
	}
	root := (&cli{}).root()
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	cmd, rest, err := root.Find(args)
	switch {
	case err != nil:
		return err.Error()
	case cmd == root:
		return "there is no such command"
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return err.Error()
	}
	rest = cmd.Flags().Args()
	if cmd.HasSubCommands() && len(rest) > 0 {
		return "there is no such command"
	}
	if len(rest) > 0 && cmd.Args != nil {
		if err := cmd.Args(cmd, rest); err != nil {
			return err.Error()
		}
	}
	return ""
}

// TestTargetsAndFilesInDocuments holds that what "make" is told exists, and the files that are linked.
func TestTargetsAndFilesInDocuments(t *testing.T) {
	makefile := readPage(t, "Makefile")
	target := regexp.MustCompile(`(?:^|[^\w-])make ([a-z][a-z0-9-]*)`)
	link := regexp.MustCompile(`\]\(([^)#:]+)\)`)
	code := regexp.MustCompile("`[^`\n]+`|(?m)^    .*$")
	for _, page := range pages {
		text := readPage(t, page)
		for _, part := range code.FindAllString(text, -1) {
			for _, m := range target.FindAllStringSubmatch(part, -1) {
				if !strings.Contains(makefile, "\n"+m[1]+":") {
					t.Errorf("%s: make %s is no target", page, m[1])
				}
			}
		}
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join("..", "..", m[1])); err != nil {
				t.Errorf("%s: %v", page, err)
			}
		}
		for _, c := range regexp.MustCompile(`TW-\d{4}`).FindAllString(text, -1) {
			if _, ok := federation.Help(federation.Code(c)); !ok {
				t.Errorf("%s: there is no code %s", page, c)
			}
		}
	}
}
