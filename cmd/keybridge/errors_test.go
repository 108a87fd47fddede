package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestErrorsAreDocumented holds docs/errors.md to the code: every error code that the
// code can answer with has a row there, and no row is about one that it cannot.
func TestErrorsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	for section, codes := range map[string]map[string]bool{
		"S3":        merge(s3Codes(t), replyCodes(t, "s3Replies")),
		"OpenAI":    merge(aiCodes(t), replyCodes(t, "aiReplies")),
		"Anthropic": claudeTypes(t),
		"Admin API": adminCodes(t),
	} {
		t.Run(section, func(t *testing.T) {
			if len(codes) < 5 {
				t.Fatalf("found %d codes in the code: has it moved?", len(codes))
			}
			want, got := slices.Sorted(maps.Keys(codes)), documented(string(page), section)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("docs/errors.md, section %s (-code +page):\n%s", section, diff)
			}
		})
	}
	for code := range hints {
		if !adminCodes(t)[code] {
			t.Errorf("there is a hint for %s, which the admin API does not have", code)
		}
	}
}

// documented are the codes in the first column of a section's table, in order.
func documented(page, section string) []string {
	_, rest, _ := strings.Cut(page, "\n## "+section+"\n")
	rest, _, _ = strings.Cut(rest, "\n## ")
	var codes []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(rest, -1) {
		codes = append(codes, m[1])
	}
	slices.Sort(codes)
	return codes
}

// s3Codes are those of the failures in extproc/s3: failure{"Code", status, …}.
func s3Codes(t *testing.T) map[string]bool {
	codes := map[string]bool{}
	inspect(t, "../../extproc/s3", func(n ast.Node) {
		if c, ok := n.(*ast.CompositeLit); ok && named(c.Type, "failure") && len(c.Elts) > 0 {
			add(codes, c.Elts[0])
		}
	})
	return codes
}

// aiCodes are those of extproc/llm: refuse(status, "code", …), refuseEach, and
// write(form, status, "code", …).
func aiCodes(t *testing.T) map[string]bool {
	codes := map[string]bool{}
	inspect(t, "../../extproc/llm", func(n ast.Node) {
		c, ok := n.(*ast.CallExpr)
		switch {
		case !ok:
		case named(c.Fun, "refuse"), named(c.Fun, "refuseEach"):
			add(codes, c.Args[1])
		case named(c.Fun, "write") && len(c.Args) > 2:
			add(codes, c.Args[2])
		}
	})
	delete(codes, "") // 401 without a key has none, like OpenAI's
	return codes
}

// claudeTypes are what extproc/llm's claudeType returns.
func claudeTypes(t *testing.T) map[string]bool {
	codes := map[string]bool{}
	inspect(t, "../../extproc/llm", func(n ast.Node) {
		f, ok := n.(*ast.FuncDecl)
		if !ok || f.Name.Name != "claudeType" {
			return
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if r, ok := n.(*ast.ReturnStmt); ok {
				add(codes, r.Results[0])
			}
			return true
		})
	})
	return codes
}

// replyCodes are those of the answers that Envoy gives by itself.
func replyCodes(t *testing.T, variable string) map[string]bool {
	codes := map[string]bool{}
	inspect(t, "../../xds/translate", func(n ast.Node) {
		v, ok := n.(*ast.ValueSpec)
		if !ok || v.Names[0].Name != variable {
			return
		}
		ast.Inspect(v, func(n ast.Node) bool {
			// answer{"code", "message"}, the type elided in a map
			if c, ok := n.(*ast.CompositeLit); ok && (c.Type == nil || named(c.Type, "answer")) && len(c.Elts) == 2 {
				add(codes, c.Elts[0])
			}
			return true
		})
	})
	return codes
}

// adminCodes are those of failures in store/api: failure{status, "CODE", …} and
// conflict("CODE", …).
func adminCodes(t *testing.T) map[string]bool {
	codes := map[string]bool{}
	inspect(t, "../../store/api", func(n ast.Node) {
		switch n := n.(type) {
		case *ast.CompositeLit:
			if named(n.Type, "failure") && len(n.Elts) > 1 {
				add(codes, n.Elts[1])
			}
		case *ast.CallExpr:
			if named(n.Fun, "conflict") {
				add(codes, n.Args[0])
			}
		}
	})
	return codes
}

func inspect(t *testing.T, dir string, visit func(ast.Node)) {
	t.Helper()
	files, err := fs.Glob(os.DirFS(dir), "*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), dir+"/"+file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			visit(n)
			return true
		})
	}
}

func named(e ast.Expr, name string) bool {
	id, ok := e.(*ast.Ident)
	return ok && id.Name == name
}

func add(codes map[string]bool, e ast.Expr) {
	if lit, ok := e.(*ast.BasicLit); ok && lit.Kind == token.STRING {
		if code, err := strconv.Unquote(lit.Value); err == nil {
			codes[code] = true
		}
	}
}

func merge(all ...map[string]bool) map[string]bool {
	out := map[string]bool{}
	for _, m := range all {
		maps.Copy(out, m)
	}
	return out
}
