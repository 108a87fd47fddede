package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const reference = "../../docs/cli.md"

// TestReference holds docs/cli.md to the commands that there are.
func TestReference(t *testing.T) {
	var b bytes.Buffer
	b.WriteString("# Command line\n\n" +
		"Every command of `keybridge`, as its `--help` says it; `go test ./cmd/keybridge -run Reference -update` writes this page.\n" +
		"`keybridge completion bash|zsh|fish|powershell` prints what makes a shell complete commands, flags, and names of workspaces,\n" +
		"connectors, repositories and keys; load it with `source <(keybridge completion bash)`.\n\n" +
		"Administration commands find the admin API by `$KEYBRIDGE_ADMIN`, `$KEYBRIDGE_TOKEN_FILE` and `$KEYBRIDGE_OPERATOR_ROOT`, or the\n" +
		"flags of the same meaning; beside `keybridge dev`, `eval \"$(keybridge env)\"` sets all three. With `--json` they print JSON. They\n" +
		"exit with 0, or with 1 after a message that ends in the API's error code ([errors.md](errors.md)). Secrets are read from files or\n" +
		"standard input only.\n")
	document(&b, root())
	if *update {
		if err := os.WriteFile(reference, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("%s: run this test with -update (-page +commands):\n%s", filepath.Base(reference), diff)
	}
}

// TestHelp: every command says what it is for, and shows how it is used.
func TestHelp(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: Short is %q", c.CommandPath(), c.Short)
		}
		if !c.HasSubCommands() && c.Example == "" && c.Name() != "version" {
			t.Errorf("%s has no example", c.CommandPath())
		}
		for line := range strings.Lines(c.Example) {
			if !strings.HasPrefix(line, "  ") {
				t.Errorf("%s: the example is not indented: %q", c.CommandPath(), line)
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root())
}

func document(b *bytes.Buffer, cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		if c.Hidden {
			continue
		}
		fmt.Fprintf(b, "\n## %s\n\n%s.\n", c.CommandPath(), c.Short)
		if c.Long != "" {
			fmt.Fprintf(b, "\n%s\n", strings.TrimSpace(c.Long))
		}
		if !c.HasSubCommands() || c.Example != "" {
			fmt.Fprintf(b, "\n```\n%s\n", c.UseLine())
			if c.Example != "" {
				fmt.Fprintf(b, "\n%s\n", strings.ReplaceAll(strings.TrimPrefix(c.Example, "  "), "\n  ", "\n"))
			}
			b.WriteString("```\n")
		}
		flags(b, c)
		document(b, c)
	}
}

func flags(b *bytes.Buffer, c *cobra.Command) {
	var rows []string
	c.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" || c.InheritedFlags().Lookup(f.Name) != nil {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		row := "- `--" + f.Name
		if value != "" {
			row += " " + value
		}
		row += "`: " + usage
		switch f.DefValue {
		case "", "[]", "false", "0", "0s":
		default:
			if f.Name != "envoy-uid" { // the user that runs this
				row += " (default `" + f.DefValue + "`)"
			}
		}
		rows = append(rows, row+"\n")
	})
	if len(rows) > 0 {
		b.WriteString("\n" + strings.Join(rows, ""))
	}
}

// TestLinks: what pages refer to within the repository is there, headings too.
func TestLinks(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	top, err := filepath.Glob("../../*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range append(pages, top...) {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`\]\(([^)#:]*)(?:#([^)]*))?\)`).FindAllStringSubmatch(string(text), -1) {
			target := page
			if m[1] != "" {
				target = filepath.Join(filepath.Dir(page), m[1])
			}
			linked, err := os.ReadFile(target)
			if fi, serr := os.Stat(target); serr == nil && fi.IsDir() {
				continue
			}
			if err != nil {
				t.Errorf("%s: %v", page, err)
			} else if m[2] != "" && !slices.Contains(anchors(string(linked)), m[2]) {
				t.Errorf("%s: %s has no heading #%s", page, m[1], m[2])
			}
		}
	}
}

// anchors are the names that a page's headings get.
func anchors(page string) (names []string) {
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(page, -1) {
		name := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
		names = append(names, strings.ReplaceAll(name, " ", "-"))
	}
	return names
}
