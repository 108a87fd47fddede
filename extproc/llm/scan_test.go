package llm_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"keybridge/extproc"
	"keybridge/extproc/llm"
)

// reader is a world in which no model exists, so that every one that is found is
// named in a refusal, and nothing else is.
type reader struct {
	p   *llm.Protocol
	key string
}

func newReader(t testing.TB) reader {
	w := newWorld(t)
	w.connector("one", "/v1", providerKey)
	w.connector("two", "/v1", providerKey)
	w.repository("both", "one", "two")
	key := w.key("A1", "both", nil)
	return reader{w.protocol(), key}
}

// read has the body arrive in pieces of that size and returns the reason of the
// answer, and for "model_not_found" the model.
func (r reader) read(t testing.TB, body []byte, piece int, announced bool) (reason, model string) {
	t.Helper()
	q := request("POST", "/v1/chat/completions", r.key)
	if announced {
		q = request("POST", "/v1/chat/completions", r.key, "content-length", strconv.Itoa(len(body)))
	}
	_, e := r.p.Decide(now, q)
	for n := 0; e == extproc.NeedBody; {
		if n == len(body) && n > 0 {
			t.Fatal("needs more than the whole body")
		}
		n = min(n+piece, len(body))
		_, e = r.p.DecideBody(now, q, body[:n], n == len(body))
		if n == 0 && e == extproc.NeedBody {
			t.Fatal("needs more than no body")
		}
	}
	if e == nil {
		t.Fatal("goes through")
	}
	message := parse(t, e).Error.Message
	if e.Reason == "model_not_found" {
		_, message, _ = strings.Cut(message, "The model `")
		model = message[:strings.LastIndex(message, "` does not exist")]
	}
	return e.Reason, model
}

func TestModelOfBody(t *testing.T) {
	r := newReader(t)
	const found = "model_not_found"
	long := strings.Repeat("long ", 20_000)
	for _, c := range []struct{ name, body, reason, model string }{
		{"alone", `{"model":"m"}`, found, "m"},
		{"white space", " \t\r\n{ \"model\" \n:\t\"m\" } \n", found, "m"},
		{"last", `{"messages":[{"role":"user","content":"hi"}],"n":1,"model":"m"}`, found, "m"},
		{"behind much", `{"a":"` + long + `","model":"m"}`, found, "m"},
		{"behind all kinds", `{"a":null,"b":true,"c":false,"d":[],"e":{},"f":-0.5e+10,"g":0,"h":[[1,2],[{}]],"model":"m"}`, found, "m"},
		{"with a slash", `{"model":"meta/llama-3"}`, found, "meta/llama-3"},
		{"escaped", `{"model":"a\u002db\/c\n\"\\"}`, found, "a-b/c\n\"\\"},
		{"pair", `{"model":"\ud83d\ude00"}`, found, "😀"},
		{"not ASCII", `{"model":"modèle"}`, found, "modèle"},
		{"escaped key", `{"m\u006fdel":"m"}`, found, "m"},
		{"all escaped key", `{"\u006d\u006F\u0064\u0065\u006c":"m"}`, found, "m"},
		{"nested ones", `{"a":{"model":"x"},"b":[{"model":"y"}],"model":"m","c":{"model":"z","model":"z"}}`, found, "m"},
		{"as a value", `{"a":"model","model":"m"}`, found, "m"},
		{"other case", `{"Model":"x","MODEL":"y","model":"m"}`, found, "m"},
		{"longer key", `{"models":"x","mode":"y","model ":"z","model":"m"}`, found, "m"},
		{"invalid UTF-8 elsewhere", "{\"a\":\"\xff\xfe\",\"\xff\":1,\"model\":\"m\"}", found, "m"},
		{"lone surrogate elsewhere", `{"a":"\ud800","\ud800":1,"model":"m"}`, found, "m"},
		{"longest", `{"model":"` + strings.Repeat("m", 256) + `"}`, found, strings.Repeat("m", 256)},
		{"longest escaped", `{"model":"` + strings.Repeat(`\u006d`, 256) + `"}`, found, strings.Repeat("m", 256)},
		{"deepest", `{"a":` + strings.Repeat("[", 511) + strings.Repeat("]", 511) + `,"model":"m"}`, found, "m"},

		{"twice", `{"model":"m","model":"m"}`, "duplicate_model", ""},
		{"twice, once escaped", `{"model":"m","\u006dodel":"n"}`, "duplicate_model", ""},
		{"twice, far apart", `{"model":"m","a":"` + long[:60_000] + `","model":"n"}`, "duplicate_model", ""},
		{"twice, second no string", `{"model":"m","model":null}`, "duplicate_model", ""},
		{"number", `{"model":1}`, "invalid_model", ""},
		{"null", `{"model":null}`, "invalid_model", ""},
		{"object", `{"model":{"model":"m"}}`, "invalid_model", ""},
		{"list", `{"model":["m"]}`, "invalid_model", ""},
		{"empty model", `{"model":""}`, "invalid_model", ""},
		{"too long", `{"model":"` + strings.Repeat("m", 257) + `"}`, "invalid_model", ""},
		{"much too long", `{"model":"` + long + `"}`, "invalid_model", ""},
		{"lone surrogate", `{"model":"\ud800"}`, "invalid_model", ""},
		{"lone low surrogate", `{"model":"\udc00x"}`, "invalid_model", ""},
		{"two high surrogates", `{"model":"\ud800\ud800"}`, "invalid_model", ""},
		{"not text", "{\"model\":\"\xff\"}", "invalid_model", ""},
		{"none", `{"messages":[]}`, "missing_model", ""},
		{"empty object", `{}`, "missing_model", ""},
		{"nested only", `{"a":{"model":"m"}}`, "missing_model", ""},
		{"too deep", `{"a":` + strings.Repeat("[", 512), "body_depth", ""},
		{"much too deep", strings.Repeat(`{"a":`, 100_000), "body_depth", ""},

		{"nothing", ``, "invalid_body", ""},
		{"white space only", `  `, "invalid_body", ""},
		{"list around", `[{"model":"m"}]`, "invalid_body", ""},
		{"string", `"model"`, "invalid_body", ""},
		{"form", `model=m`, "invalid_body", ""},
		{"BOM", "\xef\xbb\xbf{\"model\":\"m\"}", "invalid_body", ""},
		{"UTF-16", "{\x00\"\x00m\x00", "invalid_body", ""},
		{"gzip", "\x1f\x8b\x08", "invalid_body", ""},
		{"cut", `{"model":"m"`, "invalid_body", ""},
		{"cut in the model", `{"model":"m`, "invalid_body", ""},
		{"cut in a word", `{"model":"m","a":tru`, "invalid_body", ""},
		{"cut in a number", `{"model":"m","a":1`, "invalid_body", ""},
		{"two objects", `{"model":"m"}{"model":"n"}`, "invalid_body", ""},
		{"more behind", `{"model":"m"}x`, "invalid_body", ""},
		{"single quotes", `{'model':'m'}`, "invalid_body", ""},
		{"bare key", `{model:"m"}`, "invalid_body", ""},
		{"comma at the end", `{"model":"m",}`, "invalid_body", ""},
		{"comma at the beginning", `{,"model":"m"}`, "invalid_body", ""},
		{"comma in a list", `{"a":[1,],"model":"m"}`, "invalid_body", ""},
		{"no colon", `{"model" "m"}`, "invalid_body", ""},
		{"colon in a list", `{"a":["b":1],"model":"m"}`, "invalid_body", ""},
		{"wrong end", `{"a":[},"model":"m"}`, "invalid_body", ""},
		{"comment", `{/**/"model":"m"}`, "invalid_body", ""},
		{"line break in a string", "{\"a\":\"\n\",\"model\":\"m\"}", "invalid_body", ""},
		{"control character in a long string", `{"a":"` + long[:1000] + "\x1f" + long[:1000] + `","model":"m"}`, "invalid_body", ""},
		{"escape", `{"a":"\x41","model":"m"}`, "invalid_body", ""},
		{"hex", `{"a":"\u00g0","model":"m"}`, "invalid_body", ""},
		{"leading zero", `{"a":01,"model":"m"}`, "invalid_body", ""},
		{"plus", `{"a":+1,"model":"m"}`, "invalid_body", ""},
		{"no fraction", `{"a":1.,"model":"m"}`, "invalid_body", ""},
		{"no exponent", `{"a":1e,"model":"m"}`, "invalid_body", ""},
		{"NaN", `{"a":NaN,"model":"m"}`, "invalid_body", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, piece := range []int{1, 7, 8, 1000, 1 << 20} {
				reason, model := r.read(t, []byte(c.body), piece, true)
				if reason != c.reason || model != c.model {
					t.Errorf("in pieces of %d: %s %.40q, want %s %.40q", piece, reason, model, c.reason, c.model)
				}
			}
		})
	}
}

// Of a long body no more is read than has arrived with the model.
func TestReadsNoFurther(t *testing.T) {
	r := newReader(t)
	for name, q := range map[string]*extproc.Request{
		"chunked":   request("POST", "/v1/embeddings", r.key),
		"announced": request("POST", "/v1/embeddings", r.key, "content-length", "65537"),
	} {
		if _, e := r.p.Decide(now, q); e != extproc.NeedBody {
			t.Fatal(name, e)
		}
		if _, e := r.p.DecideBody(now, q, []byte(`{"a":1,"mod`), false); e != extproc.NeedBody {
			t.Fatal(name, e)
		}
		if _, e := r.p.DecideBody(now, q, []byte(`{"a":1,"model":"m","b":[`), false); e == nil || e.Reason != "model_not_found" {
			t.Error(name, e)
		}
	}
	short := request("POST", "/v1/embeddings", r.key, "content-length", "100")
	_, _ = r.p.Decide(now, short)
	if _, e := r.p.DecideBody(now, short, []byte(`{"a":1,"model":"m","b":[`), false); e != extproc.NeedBody {
		t.Error("short: ", e)
	}
}

// What encoding/json makes of a body is what the scan makes of it, in whatever
// pieces it arrives.
func FuzzScan(f *testing.F) {
	for _, s := range []string{
		`{"model":"m"}`, `{"a":[1,-2.5e-3,true,false,null,{"model":"x"}],"m\u006fdel":"\ud83d\ude00\n"} `, `{"model":"a","model":"b"}`,
		`{"model":1}`, `{"a":"12345678901234567890\\\"\u12aF"}`, `[]`, `{"a":{"b":[[]]}`, "{\"a\":\"\x7f\x80\xff\"}",
	} {
		f.Add([]byte(s), byte(3))
	}
	r := newReader(f)
	f.Fuzz(func(t *testing.T, body []byte, piece byte) {
		if len(body) > 60_000 {
			return // those are not read to the end
		}
		got, model := r.read(t, body, int(piece)+1, true)
		want, wantModel := byEncodingJSON(body)
		if got != want && !refusedEarly(got, body) {
			t.Errorf("%s, want %s", got, want)
		}
		if got == want && model != wantModel {
			t.Errorf("model %q, want %q", model, wantModel)
		}
		// Not announced, the answer may come before the end, and then is of what came.
		early, model := r.read(t, body, int(piece)+1, false)
		if early == "model_not_found" && want == early && model != wantModel {
			t.Errorf("early: model %q, want %q", model, wantModel)
		}
	})
}

// refusedEarly: a body may be wrong in several ways, and the first is named; and
// encoding/json nests deeper.
func refusedEarly(got string, body []byte) bool {
	switch got {
	case "duplicate_model", "invalid_model":
		return !json.Valid(body) || bytes.Count(body, []byte("odel"))+bytes.Count(body, []byte(`\u`)) > 1
	case "body_depth":
		return bytes.Count(body, []byte("["))+bytes.Count(body, []byte("{")) > 512
	}
	return false
}

func byEncodingJSON(body []byte) (reason, model string) {
	if !json.Valid(body) || bytes.TrimLeft(body, " \t\r\n")[0] != '{' {
		return "invalid_body", ""
	}
	d := json.NewDecoder(bytes.NewReader(body))
	_, _ = d.Token()
	reason = "missing_model"
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return fmt.Sprint(err), ""
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Sprint(err), ""
		}
		if key != "model" {
			continue
		}
		if reason != "missing_model" {
			return "duplicate_model", ""
		}
		reason = "model_not_found"
		// encoding/json puts U+FFFD where there is no text.
		text := ""
		if json.Unmarshal(value, &text) != nil || value[0] != '"' || text == "" || len(text) > 256 || !utf8.Valid(value) ||
			strings.Contains(text, "\uFFFD") && !bytes.Contains(value, []byte("\uFFFD")) && !bytes.Contains(bytes.ToLower(value), []byte(`\ufffd`)) {
			return "invalid_model", ""
		}
		model = text
	}
	return reason, model
}

func BenchmarkDecideBody(b *testing.B) {
	w := newWorld(b)
	var models []string
	for i := range 400 {
		models = append(models, "vendor/model-"+strconv.Itoa(i))
	}
	w.connector("one", "/v1", providerKey, models...)
	w.connector("two", "/v1", providerKey, append(models, "gpt-*")...)
	w.repository("both", "one", "two")
	key := w.key("A1", "both", nil)
	p := w.protocol()
	first := func(size int) []byte {
		return []byte(`{"model":"gpt-1","messages":[{"role":"user","content":"` + strings.Repeat("word ", size/5) + `"}]}`)
	}
	last := []byte(`{"messages":[{"role":"user","content":"` + strings.Repeat("word ", 8_000_000/5) + `"}],"model":"gpt-1"}`)
	for _, c := range []struct {
		name  string
		body  []byte
		piece int
	}{
		{"1KiB", first(1 << 10), 1 << 10}, {"64KiB", first(64 << 10), 64 << 10}, {"8MB-model-last", last, 64 << 10},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(c.body)))
			for b.Loop() {
				r := request("POST", "/v1/chat/completions", key, "content-length", strconv.Itoa(len(c.body)))
				_, e := p.Decide(now, r)
				for n := 0; e == extproc.NeedBody; {
					n = min(n+c.piece, len(c.body))
					_, e = p.DecideBody(now, r, c.body[:n], n == len(c.body))
				}
				if e != nil {
					b.Fatal(string(e.Body))
				}
			}
		})
	}
}
