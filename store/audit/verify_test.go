package audit_test

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keybridge/store/audit"
)

// fourLines is a good log of created(1) to created(4), and its head after each line.
func fourLines(t *testing.T) (b []byte, heads []audit.Head) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "audit.log")
	l := open(t, path)
	for n := 1; n <= 4; n++ {
		add(t, l, created(n))
		heads = append(heads, l.Head())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b, heads
}

func TestVerifyNamesTheFirstBadLine(t *testing.T) {
	good, heads := fourLines(t)
	lines := bytes.SplitAfter(good, []byte("\n"))[:4]
	join := func(l ...[]byte) []byte { return bytes.Join(l, nil) }
	swap := func(old, new string) []byte { return bytes.Replace(good, []byte(old), []byte(new), 1) }
	other, _ := fourLines(t) // the same events: the same chain
	if !bytes.Equal(good, other) {
		t.Fatal("the chain depends on something else than the events")
	}
	for name, c := range map[string]struct {
		log  []byte
		line uint64
		text string
	}{
		"a field changed":              {swap(`"contextId":"connector-2"`, `"contextId":"connector-9"`), 2, "changed"},
		"a time changed":               {swap(`00:03:00`, `00:03:01`), 3, "changed"},
		"the last line changed":        {swap(`"name":"c4"`, `"name":"c5"`), 4, "changed"},
		"a number changed":             {swap(`{"seq":2`, `{"seq":7`), 2, "changed"},
		"a hash changed":               {swap(heads[1].Hash+`"}`, strings.Repeat("0", 64)+`"}`), 2, "changed"},
		"a prev changed":               {swap(`"prev":"`+heads[1].Hash, `"prev":"`+strings.Repeat("0", 64)), 3, "changed"},
		"a field added":                {swap(`,"prev"`, `,"more":1,"prev"`), 1, "changed"},
		"a line taken out":             {join(lines[0], lines[1], lines[3]), 3, "does not follow"},
		"the first taken out":          {join(lines[1:]...), 1, "does not follow"},
		"a line twice":                 {join(lines[0], lines[1], lines[1], lines[2], lines[3]), 3, "does not follow"},
		"two lines exchanged":          {join(lines[0], lines[2], lines[1], lines[3]), 2, "does not follow"},
		"two logs after another":       {join(good, good), 5, "does not follow"},
		"an empty line":                {join(lines[0], []byte("\n"), lines[1]), 2, "not an audit line"},
		"garbage":                      {join(good, []byte("hello\n")), 5, "not an audit line"},
		"garbage in front":             {join([]byte("hello\n"), good), 1, "not an audit line"},
		"a carriage return":            {swap("\n", "\r\n"), 1, "not an audit line"},
		"a space":                      {swap("{", " {"), 1, "changed"},
		"a very long line":             {join(lines[0], bytes.Repeat([]byte("x"), 80<<10), []byte("\n")), 2, "longer"},
		"zeros":                        {join(lines[0], make([]byte, 4096)), 2, "no end"},
		"the last without a line feed": {good[:len(good)-1], 4, "no end"},
		"cut within a line":            {good[:len(good)-30], 4, "no end"},
		"a line feed lost":             {join(lines[0][:len(lines[0])-1], lines[1]), 1, "changed"},
	} {
		t.Run(name, func(t *testing.T) {
			if bytes.Equal(c.log, good) {
				t.Fatal("nothing changed")
			}
			h, err := audit.Verify(bytes.NewReader(c.log))
			var bad *audit.LineError
			if !errors.As(err, &bad) || bad.Line != c.line || !strings.Contains(err.Error(), c.text) {
				t.Fatalf("%v, want line %d, %s", err, c.line, c.text)
			}
			want := audit.Head{}
			if c.line > 1 {
				want = heads[c.line-2]
			}
			if h != want {
				t.Errorf("head %v, want %v", h, want)
			}
			if errors.Is(err, audit.ErrTorn) != (c.text == "no end") {
				t.Errorf("%v: ErrTorn is wrong", err)
			}
		})
	}
}

// Every single byte counts.
func TestVerifyNoticesEveryByte(t *testing.T) {
	good, _ := fourLines(t)
	for i := range good {
		b := bytes.Clone(good)
		b[i] ^= 1
		line := uint64(bytes.Count(good[:i], []byte("\n"))) + 1
		var bad *audit.LineError
		if _, err := audit.Verify(bytes.NewReader(b)); !errors.As(err, &bad) || bad.Line != line {
			t.Fatalf("byte %d of line %d changed: %v", i, line, err)
		}
	}
}

// rewrite makes a log of its own, with correct hashes, in which one event differs.
func rewrite(t *testing.T, different int) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "audit.log")
	l := open(t, path)
	for n := 1; n <= 4; n++ {
		e := created(n)
		if n == different {
			e.UserID = "bob"
		}
		add(t, l, e)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Who can write the file can make a new chain, which only a head kept elsewhere shows.
func TestVerifyAgainstNotedHeads(t *testing.T) {
	good, heads := fourLines(t)
	two := bytes.Join(bytes.SplitAfter(good, []byte("\n"))[:2], nil)
	for name, c := range map[string]struct {
		log   []byte
		known []audit.Head
		line  uint64 // 0: good
	}{
		"all heads":                      {good, heads, 0},
		"of the empty log":               {good, []audit.Head{{}}, 0},
		"an empty log":                   {nil, nil, 0},
		"cut, nothing noted":             {two, nil, 0},
		"cut, an older head noted":       {two, heads[:2], 0},
		"cut":                            {two, heads[3:], 3},
		"emptied":                        {nil, heads[:1], 1},
		"rewritten, nothing noted":       {rewrite(t, 2), nil, 0},
		"rewritten after the noted head": {rewrite(t, 4), heads[:3], 0},
		"rewritten":                      {rewrite(t, 2), heads[2:3], 3},
		"rewritten, two heads":           {rewrite(t, 2), []audit.Head{heads[3], heads[1]}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := audit.Verify(bytes.NewReader(c.log), c.known...)
			var bad *audit.LineError
			if c.line == 0 && err != nil || c.line > 0 && (!errors.As(err, &bad) || bad.Line != c.line) {
				t.Errorf("%v, want line %d", err, c.line)
			}
		})
	}
}

func TestVerifyReadError(t *testing.T) {
	broken := errors.New("broken")
	var bad *audit.LineError
	if _, err := audit.Verify(errReader{broken}); !errors.Is(err, broken) || errors.As(err, &bad) {
		t.Error(err)
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

func TestExportJSON(t *testing.T) {
	good, heads := fourLines(t)
	lines := strings.SplitAfter(string(good), "\n")
	var out strings.Builder
	n, err := audit.Export(&out, bytes.NewReader(good), audit.JSON, audit.Filter{From: created(2).Time, To: created(4).Time, Take: 1, Skip: 1})
	if err != nil || n != 2 || out.String() != lines[1]+lines[2] {
		t.Errorf("%d, %v:\n%s", n, err, &out)
	}
	// The lines are as anything that reads JSON lines wants them.
	var line struct {
		Seq        int
		Hash, Prev string
		Data       struct{ Name string }
	}
	if err := json.Unmarshal([]byte(lines[1]), &line); err != nil || line.Seq != 2 || line.Hash != heads[1].Hash || line.Prev != heads[0].Hash || line.Data.Name != "c2" {
		t.Errorf("%+v, %v", line, err)
	}
}

func TestExportCSV(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l := open(t, path)
	evil := audit.Event{ID: "-x", Time: created(2).Time, Context: "@SUM(A1)", Event: "+1", ContextID: "=cmd", UserID: "a,\"b\"", Data: json.RawMessage("-1")}
	add(t, l, created(1), evil)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if n, err := audit.Export(&out, bytes.NewReader(b), audit.CSV, audit.Filter{}); err != nil || n != 2 {
		t.Fatal(n, err)
	}
	got, err := csv.NewReader(&out).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	hash := got[1][9]
	want := [][]string{
		{"seq", "time", "context", "event", "contextId", "userId", "workspaceId", "id", "data", "hash"},
		{"1", "2026-01-01T00:01:00.000000001Z", "connector", "created", "connector-1", "ann", "w1", "event-1", `{"name":"c1"}`, hash},
		{"2", "2026-01-01T00:02:00.000000002Z", "'@SUM(A1)", "+1", "'=cmd", `a,"b"`, "", "'-x", "-1", l.Head().Hash},
	}
	if diff := cmp.Diff(want, got); diff != "" || len(hash) != 64 {
		t.Error(diff)
	}
}

func TestExportStopsAtABadLine(t *testing.T) {
	good, _ := fourLines(t)
	for _, format := range []audit.Format{audit.JSON, audit.CSV} {
		var out strings.Builder
		n, err := audit.Export(&out, bytes.NewReader(bytes.Replace(good, []byte("connector-3"), []byte("connector-8"), 1)), format, audit.Filter{})
		var bad *audit.LineError
		if n != 2 || !errors.As(err, &bad) || bad.Line != 3 || !strings.Contains(out.String(), "connector-2") {
			t.Errorf("%s: %d, %v:\n%s", format, n, err, &out)
		}
		full := errors.New("full")
		if _, err := audit.Export(errWriter{full}, bytes.NewReader(good), format, audit.Filter{}); !errors.Is(err, full) {
			t.Errorf("%s: %v", format, err)
		}
	}
	if _, err := audit.Export(&strings.Builder{}, bytes.NewReader(good), "xml", audit.Filter{}); !errors.Is(err, audit.ErrFilter) {
		t.Error(err)
	}
}

type errWriter struct{ err error }

func (w errWriter) Write([]byte) (int, error) { return 0, w.err }

// events is a log in which users, kinds and workspaces differ.
func events(t *testing.T) (*audit.Log, []audit.Event) {
	l := open(t, filepath.Join(t.TempDir(), "audit.log"))
	var all []audit.Event
	for i := range 250 {
		e := created(i)
		e.Time = time.Date(2026, 1, 1, i, 0, 0, 0, time.UTC)
		e.Context = []string{"connector", "repo", "token"}[i%3]
		e.Event = []string{"created", "deleted"}[i%2]
		e.UserID = []string{"ann", "bob", ""}[i%5%3]
		e.WorkspaceID = []string{"w1", "w2", "w3", ""}[i%7%4]
		e.ContextID = []string{"a", "b", "c", "d"}[i%4]
		all = append(all, e)
	}
	add(t, l, all...)
	return l, all
}

func TestQuery(t *testing.T) {
	l, all := events(t)
	at := func(i int) time.Time { return all[i].Time }
	for name, c := range map[string]struct {
		f    audit.Filter
		want func(e audit.Event) bool
	}{
		"all":       {audit.Filter{}, func(audit.Event) bool { return true }},
		"context":   {audit.Filter{Context: "repo"}, func(e audit.Event) bool { return e.Context == "repo" }},
		"event":     {audit.Filter{Event: "deleted"}, func(e audit.Event) bool { return e.Event == "deleted" }},
		"user":      {audit.Filter{UserID: "bob"}, func(e audit.Event) bool { return e.UserID == "bob" }},
		"thing":     {audit.Filter{ContextID: "c"}, func(e audit.Event) bool { return e.ContextID == "c" }},
		"workspace": {audit.Filter{WorkspaceID: "w2"}, func(e audit.Event) bool { return e.WorkspaceID == "w2" }},
		"all at once": {audit.Filter{Context: "repo", Event: "created", WorkspaceID: "w1", From: at(10)}, func(e audit.Event) bool {
			return e.Context == "repo" && e.Event == "created" && e.WorkspaceID == "w1" && !e.Time.Before(at(10))
		}},
		"from":            {audit.Filter{From: at(100)}, func(e audit.Event) bool { return !e.Time.Before(at(100)) }},
		"to":              {audit.Filter{To: at(100)}, func(e audit.Event) bool { return e.Time.Before(at(100)) }},
		"from to":         {audit.Filter{From: at(5), To: at(8)}, func(e audit.Event) bool { return !e.Time.Before(at(5)) && e.Time.Before(at(8)) }},
		"nothing":         {audit.Filter{UserID: "nobody"}, func(audit.Event) bool { return false }},
		"distant from":    {audit.Filter{From: time.Date(1, 1, 1, 0, 0, 1, 0, time.UTC)}, func(audit.Event) bool { return true }},
		"distant to":      {audit.Filter{To: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)}, func(audit.Event) bool { return true }},
		"two workspaces":  {audit.Filter{Workspaces: []string{"w1", "w3", "nowhere"}}, func(e audit.Event) bool { return e.WorkspaceID == "w1" || e.WorkspaceID == "w3" }},
		"no workspace":    {audit.Filter{Workspaces: []string{""}}, func(e audit.Event) bool { return e.WorkspaceID == "" }},
		"none may see":    {audit.Filter{Workspaces: []string{}}, func(audit.Event) bool { return false }},
		"not that one":    {audit.Filter{WorkspaceID: "w1", Workspaces: []string{"w2"}}, func(audit.Event) bool { return false }},
		"from is after":   {audit.Filter{From: at(10), To: at(5)}, func(audit.Event) bool { return false }},
		"not a substring": {audit.Filter{Context: "rep"}, func(audit.Event) bool { return false }},
	} {
		t.Run(name, func(t *testing.T) {
			var want []audit.Event
			for i := len(all) - 1; i >= 0; i-- {
				if c.want(all[i]) {
					want = append(want, all[i])
				}
			}
			var got []audit.Event
			f := c.f
			for f.Take = 30; ; f.Skip += f.Take {
				page, total, err := l.Query(t.Context(), f)
				if err != nil || total != len(want) || len(page) > f.Take {
					t.Fatalf("page of %d, total %d, want %d, %v", len(page), total, len(want), err)
				}
				if len(page) == 0 {
					break
				}
				got = append(got, page...)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	if page := list(t, l, audit.Filter{}); len(page) != audit.MaxTake {
		t.Errorf("take 0 answers %d", len(page))
	}
	for _, f := range []audit.Filter{{Skip: -1}, {Take: -1}, {Take: audit.MaxTake + 1}} {
		if _, _, err := l.Query(t.Context(), f); !errors.Is(err, audit.ErrFilter) {
			t.Errorf("%+v: %v", f, err)
		}
	}
}

// What Export selects from the file is what Query selects from its index.
func TestExportSelectsAsQueryDoes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l := open(t, path)
	_, all := events(t)
	add(t, l, all...)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []audit.Filter{
		{}, {Context: "repo", Event: "created"}, {UserID: "bob", ContextID: "c"}, {WorkspaceID: "w2"}, {Workspaces: []string{"w1", ""}},
		{Workspaces: []string{}}, {From: all[50].Time, To: all[60].Time}, {From: all[60].Time}, {To: all[60].Time},
	} {
		n, err := audit.Export(&strings.Builder{}, bytes.NewReader(b), audit.JSON, f)
		if err != nil {
			t.Fatal(err)
		}
		if _, total, err := l.Query(t.Context(), f); err != nil || total != n {
			t.Errorf("%+v: Export %d, Query %d, %v", f, n, total, err)
		}
	}
}

// BenchmarkVerify is what a start costs for each line, and an offline check.
func BenchmarkVerify(b *testing.B) {
	path := filepath.Join(b.TempDir(), "audit.log")
	l, err := audit.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	const lines = 100
	for i := range lines {
		if err := l.Append(b.Context(), created(i)); err != nil {
			b.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
	log, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(log)))
	for b.Loop() {
		if _, err := audit.Verify(bytes.NewReader(log)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*lines), "ns/line")
}

// BenchmarkAppend is one writer, then many that share an fsync.
func BenchmarkAppend(b *testing.B) {
	for name, parallel := range map[string]int{"1": 0, "64": 32} {
		b.Run(name, func(b *testing.B) {
			l, err := audit.Open(filepath.Join(b.TempDir(), "audit.log"))
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = l.Close() }()
			if parallel == 0 {
				for b.Loop() {
					if err := l.Append(b.Context(), created(1)); err != nil {
						b.Fatal(err)
					}
				}
				return
			}
			b.SetParallelism(parallel)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := l.Append(b.Context(), created(1)); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
