package s3_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keybridge/extproc"
	"keybridge/extproc/protocoltest"
)

// htmlForm is a form as an application makes it for a browser.
type htmlForm struct {
	bucket     string
	fields     [][2]string // in order; policy, algorithm, credential, date and signature come after them
	conditions []any       // besides one for each field
	policy     string      // instead of the one that is made
	expiration time.Time
	at         time.Time
	region     string
	file       string
	tail       string // after the file's part
	drop       string // a field that is left out
}

func hmacOf(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

func signPolicy(secret, day, region, policy string) string {
	key := []byte("AWS4" + secret)
	for _, part := range []string{day, region, "s3", "aws4_request"} {
		key = hmacOf(key, part)
	}
	return hex.EncodeToString(hmacOf(key, policy))
}

// form signs the form, and returns the request and its body.
func (u htmlForm) form(t testing.TB, k protocoltest.Key) (*extproc.Request, []byte) {
	t.Helper()
	if u.bucket == "" {
		u.bucket = "papers"
	}
	if u.at.IsZero() {
		u.at = now
	}
	if u.expiration.IsZero() {
		u.expiration = now.Add(time.Hour)
	}
	if u.region == "" {
		u.region = "us-east-1"
	}
	date := u.at.UTC().Format("20060102T150405Z")
	fields := append(u.fields[:len(u.fields):len(u.fields)],
		[2]string{"x-amz-algorithm", "AWS4-HMAC-SHA256"}, [2]string{"x-amz-credential", k.ID + "/" + date[:8] + "/" + u.region + "/s3/aws4_request"}, [2]string{"x-amz-date", date})
	if u.policy == "" {
		conditions := append([]any{map[string]string{"bucket": u.bucket}}, u.conditions...)
		for _, f := range fields {
			conditions = append(conditions, map[string]string{f[0]: f[1]})
		}
		b, err := json.Marshal(map[string]any{"expiration": u.expiration.UTC().Format(time.RFC3339), "conditions": conditions})
		if err != nil {
			t.Fatal(err)
		}
		u.policy = base64.StdEncoding.EncodeToString(b)
	}
	fields = append(fields, [2]string{"policy", u.policy}, [2]string{"x-amz-signature", signPolicy(k.Secret, date[:8], u.region, u.policy)})
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	for _, f := range fields {
		if f[0] != u.drop {
			_ = w.WriteField(f[0], f[1])
		}
	}
	part, _ := w.CreateFormFile("file", `C:\temp\photo "1".jpg`)
	_, _ = io.WriteString(part, u.file)
	if u.tail != "" {
		_ = w.WriteField(u.tail, "late")
	}
	_ = w.Close()
	c := call{method: "POST", path: "/" + u.bucket, host: front, length: int64(body.Len())}
	return with(c.envoy(c.path, nil), extproc.Header{Name: "content-type", Value: w.FormDataContentType()}), body.Bytes()
}

// sent is the form that a provider gets.
func sent(t testing.TB, d *extproc.Decision) (fields map[string]string, file, filename string) {
	t.Helper()
	var boundary string
	for _, h := range d.Set {
		if h.Name == "content-type" {
			_, params, err := mime.ParseMediaType(h.Value)
			if err != nil {
				t.Fatal(err)
			}
			boundary = params["boundary"]
		}
	}
	parts := multipart.NewReader(bytes.NewReader(d.Body), boundary)
	fields = map[string]string{}
	for {
		part, err := parts.NextRawPart()
		if errors.Is(err, io.EOF) {
			return fields, file, filename
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(part)
		if err != nil {
			t.Fatal(err)
		}
		if part.FormName() == "file" {
			file, filename = string(b), part.FileName()
			continue
		}
		if _, twice := fields[part.FormName()]; twice || file != "" {
			t.Errorf("%s twice, or after the file", part.FormName())
		}
		fields[part.FormName()] = string(b)
	}
}

// TestForm: the provider gets the client's fields, file and conditions, and a signature
// of its own.
func TestForm(t *testing.T) {
	s := newStage(t)
	u := htmlForm{
		fields:     [][2]string{{"key", "in/${filename}"}, {"bucket", "papers"}, {"Content-Type", "image/jpeg"}, {"x-amz-meta-a", "b"}, {"success_action_status", "201"}},
		conditions: []any{[]any{"starts-with", "$key", "in/"}, []any{"content-length-range", 0, 100}, []any{"starts-with", "$x-amz-credential", s.write.ID}},
		file:       "the file\r\n--with something like a boundary", tail: "x-amz-meta-late",
	}
	r, body := u.form(t, s.write)
	if _, e := s.Decide(now, r); e != extproc.NeedBody {
		t.Fatalf("of the headers alone: %+v", e)
	}
	for n := range len(body) {
		if d, e := s.DecideBody(now, r, body[:n], false); e != extproc.NeedBody {
			t.Fatalf("of %d bytes: %+v, %s", n, d, e.Body)
		}
	}
	d, e := s.DecideBody(now, r, body, true)
	if e != nil {
		t.Fatalf("%s", e.Body)
	}
	if d.Path != "/papers" || d.Authority != "papers.provider.example" && d.Authority == front || d.Key == "" {
		t.Errorf("%+v", d)
	}
	fields, file, filename := sent(t, d)
	if file != u.file || filename != "photo _1_.jpg" {
		t.Errorf("%q %q", filename, file)
	}
	day := now.Format("20060102")
	policy := fields["policy"]
	if want := signPolicy(protocoltest.ProviderSecret("papers"), day, "eu-central-1", policy); fields["x-amz-signature"] != want {
		t.Errorf("signed %s, want %s", fields["x-amz-signature"], want)
	}
	delete(fields, "policy")
	delete(fields, "x-amz-signature")
	credential := protocoltest.ProviderKey("papers") + "/" + day + "/eu-central-1/s3/aws4_request"
	want := map[string]string{
		"key": `in/photo "1".jpg`, "bucket": "papers", "content-type": "image/jpeg", "x-amz-meta-a": "b", "success_action_status": "201",
		"x-amz-algorithm": "AWS4-HMAC-SHA256", "x-amz-credential": credential, "x-amz-date": now.Format("20060102T150405Z"),
	}
	if diff := cmp.Diff(want, fields); diff != "" {
		t.Error(diff)
	}
	text, err := base64.StdEncoding.DecodeString(policy)
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		Expiration string
		Conditions []json.RawMessage
	}
	if err := json.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	var conditions []string
	for _, c := range document.Conditions {
		conditions = append(conditions, string(c))
	}
	if diff := cmp.Diff([]string{
		`{"bucket":"papers"}`, `["starts-with","$key","in/"]`, `["content-length-range",0,100]`, `{"key":"in/${filename}"}`, `{"bucket":"papers"}`,
		`{"Content-Type":"image/jpeg"}`, `{"x-amz-meta-a":"b"}`, `{"success_action_status":"201"}`,
		`{"x-amz-algorithm":"AWS4-HMAC-SHA256"}`, `{"x-amz-credential":"` + credential + `"}`, `{"x-amz-date":"` + want["x-amz-date"] + `"}`,
	}, conditions); diff != "" {
		t.Error(diff)
	}
	if strings.Contains(string(d.Body), s.write.ID) {
		t.Error("the client's key id reaches the provider")
	}
}

// TestFormRefusals: what a form is refused for.
func TestFormRefusals(t *testing.T) {
	s := newStage(t)
	key := func(name string) [][2]string { return [][2]string{{"key", name}} }
	field := func(name, value string) htmlForm { return htmlForm{fields: [][2]string{{"key", "k"}, {name, value}}} }
	raw := func(text string) htmlForm {
		return htmlForm{fields: key("k"), policy: base64.StdEncoding.EncodeToString([]byte(text))}
	}
	until := `"expiration": "` + now.Add(time.Hour).Format(time.RFC3339) + `"`
	for _, tt := range []struct {
		name   string
		u      htmlForm
		k      protocoltest.Key
		status int
		code   string
		reason string
	}{
		{"by a READ key", htmlForm{fields: key("k")}, s.read, 403, "AccessDenied", "forbidden"},
		{"unknown key", htmlForm{fields: key("k")}, protocoltest.Key{ID: "AKIAUNKNOWN", Secret: "x"}, 403, "InvalidAccessKeyId", "unknown_key"},
		{"wrong secret", htmlForm{fields: key("k")}, protocoltest.Key{ID: s.write.ID, Secret: "x"}, 403, "SignatureDoesNotMatch", "bad_signature"},
		{"foreign bucket", htmlForm{bucket: "secret", fields: key("k")}, s.admin, 403, "AccessDenied", "foreign_bucket"},
		{"another bucket in a field", field("bucket", "photos"), s.admin, 400, "InvalidArgument", "argument"},
		{"nobody's", htmlForm{fields: [][2]string{}}, s.admin, 400, "InvalidArgument", "malformed_form"},
		{"no key", htmlForm{fields: key("")}, s.admin, 400, "InvalidArgument", "malformed_form"},
		{"no policy", htmlForm{fields: key("k"), drop: "policy"}, s.admin, 400, "InvalidArgument", "malformed_form"},
		{"no signature", htmlForm{fields: key("k"), drop: "x-amz-signature"}, s.admin, 400, "InvalidArgument", "malformed_form"},
		{"key that climbs out", htmlForm{fields: key("../photos/k")}, s.admin, 400, "400", "climbing_key"},
		{"publishing by a WRITE key", field("acl", "public-read"), s.write, 403, "AccessDenied", "forbidden"},
		{"publishing where it is not allowed", htmlForm{bucket: "photos", fields: [][2]string{{"key", "k"}, {"acl", "public-read"}}}, s.admin, 403, "AccessDenied", "forbidden"},
		{"lock by a WRITE key", field("x-amz-object-lock-mode", "COMPLIANCE"), s.write, 403, "AccessDenied", "forbidden"},
		{"unknown x-amz field", field("x-amz-new", "1"), s.admin, 501, "NotImplemented", "unknown_header"},
		{"field of a copy", field("x-amz-metadata-directive", "COPY"), s.admin, 501, "NotImplemented", "unknown_field"},
		{"copy source", field("x-amz-copy-source", "papers/k"), s.admin, 501, "NotImplemented", "unknown_field"},
		{"field of another vendor", field("x-goog-acl", "public-read"), s.admin, 501, "NotImplemented", "unknown_field"},
		{"unknown field", field("color", "red"), s.admin, 501, "NotImplemented", "unknown_field"},
		{"session token", field("x-amz-security-token", "t"), s.admin, 400, "InvalidToken", "form_token"},
		{"SigV2", field("AWSAccessKeyId", "a"), s.admin, 400, "InvalidRequest", "sigv2"},
		{"a header in a field", field("content-type", "a\r\nx-amz-acl: public-read"), s.admin, 400, "MalformedPOSTRequest", "malformed_form"},
		{"field twice", htmlForm{fields: [][2]string{{"key", "k"}, {"Key", "l"}}}, s.admin, 400, "MalformedPOSTRequest", "malformed_form"},
		{"too much before the file", field("x-amz-meta-a", strings.Repeat("x", 20<<10)), s.admin, 400, "MaxPostPreDataLengthExceeded", "form_fields"},
		{"file too large", htmlForm{fields: key("k"), file: strings.Repeat("x", 2<<20)}, s.admin, 400, "EntityTooLarge", "form_too_large"},
		{"signed too long ago", htmlForm{fields: key("k"), at: now.Add(-61 * time.Minute)}, s.admin, 403, "AccessDenied", "policy_expired"},
		{"signed in the future", htmlForm{fields: key("k"), at: now.Add(16 * time.Minute)}, s.admin, 403, "RequestTimeTooSkewed", "skew"},
		{"policy expired", htmlForm{fields: key("k"), expiration: now}, s.admin, 403, "AccessDenied", "policy_expired"},
		{"no base64", htmlForm{fields: key("k"), policy: "_"}, s.admin, 400, "InvalidPolicyDocument", "policy"},
		{"no JSON", raw("{"), s.admin, 400, "InvalidPolicyDocument", "policy"},
		{"something after it", raw(`{` + until + `,"conditions":[]} {}`), s.admin, 400, "InvalidPolicyDocument", "policy"},
		{"no expiration", raw(`{"conditions":[]}`), s.admin, 400, "InvalidPolicyDocument", "policy"},
		{"expiration in local time", raw(`{"expiration":"2099-01-01T00:00:00+01:00","conditions":[]}`), s.admin, 400, "InvalidPolicyDocument", "policy"},
		{"no conditions", raw(`{` + until + `}`), s.admin, 400, "InvalidPolicyDocument", "policy"},
		{"conditions twice", raw(`{` + until + `,"conditions":[["eq","$key","k"]],"conditions":[]}`), s.admin, 400, "InvalidPolicyDocument", "policy"},
		{"conditions twice, in two cases", raw(`{` + until + `,"conditions":[],"Conditions":[]}`), s.admin, 400, "InvalidPolicyDocument", "policy"},
		{"a condition with two members", raw(`{` + until + `,"conditions":[{"key":"k","acl":"private"}]}`), s.admin, 400, "InvalidPolicyDocument", "policy"},
		{"another member", raw(`{` + until + `,"conditions":[],"x":1}`), s.admin, 400, "InvalidPolicyDocument", "policy"},
		{"credential of another", raw(`{` + until + `,"conditions":[{"X-Amz-Credential":"other"}]}`), s.admin, 403, "AccessDenied", "policy_condition"},
		{"date of another", raw(`{` + until + `,"conditions":[["starts-with","$x-amz-date","19"]]}`), s.admin, 403, "AccessDenied", "policy_condition"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, body := tt.u.form(t, tt.k)
			d, e := s.DecideBody(now, r, body, true)
			if e == nil {
				t.Fatalf("decided %+v", d)
			}
			if e.Status != tt.status || e.Reason != tt.reason {
				t.Errorf("got %d %s, want %d %s: %s", e.Status, e.Reason, tt.status, tt.reason, e.Body)
			}
			if w := parseError(t, e); w.Code != tt.code {
				t.Errorf("got %s (%s), want %s", w.Code, w.Message, tt.code)
			}
		})
	}
}

// TestFormShapes: bodies that are no form, and requests that no form can be.
func TestFormShapes(t *testing.T) {
	s := newStage(t)
	r, body := htmlForm{fields: [][2]string{{"key", "k"}}, file: "file"}.form(t, s.write)
	refused := func(name string, r *extproc.Request, body []byte, complete bool, reason string) {
		t.Helper()
		if d, e := s.DecideBody(now, r, body, complete); e == nil || e == extproc.NeedBody || e.Reason != reason {
			t.Errorf("%s: %+v, %+v", name, d, e)
		}
	}
	refused("nothing", r, nil, true, "malformed_form")
	refused("a preamble", r, append([]byte("\r\n"), body...), false, "malformed_form")
	refused("another boundary", replace(r, "content-type", to("multipart/form-data; boundary=x")), body, false, "malformed_form")
	refused("no boundary", replace(r, "content-type", to("multipart/form-data")), body, false, "malformed_form")
	refused("an end within the file", r, body[:len(body)-20], true, "malformed_form")
	refused("an end before the file", r, body[:40], true, "malformed_form")
	refused("compressed", with(r, extproc.Header{Name: "content-encoding", Value: "gzip"}), body, true, "unknown_header")
	refused("a header that no policy covers", with(r, extproc.Header{Name: "x-amz-acl", Value: "private"}), body, true, "headers_not_signed")
	refused("to a key", replace(r, ":path", to("/papers/k")), body, true, "method")
	refused("endless lines before the file", r, append(bytes.Clone(body[:64]), bytes.Repeat([]byte("X: y\r\n"), 8<<10)...), false, "form_fields")
	// The signature counts before the file has come.
	w, b := htmlForm{fields: [][2]string{{"key", "k"}}, file: strings.Repeat("x", 1<<20)}.form(t, protocoltest.Key{ID: s.write.ID, Secret: "x"})
	refused("a wrong signature, early", w, b[:4<<10], false, "bad_signature")
}

// TestFormInFolder: a form is held to its repository's folder like any upload.
func TestFormInFolder(t *testing.T) {
	s := newFolders(t)
	key := s.write
	for name, want := range map[string]string{"p/k": "", "q/k": "outside_folder", "p/../q/k": "outside_folder", "p/${filename}": ""} {
		r, body := htmlForm{fields: [][2]string{{"key", name}}}.form(t, key)
		reason := ""
		if _, e := s.DecideBody(now, r, body, true); e != nil {
			reason = e.Reason
		}
		if reason != want {
			t.Errorf("%s: %s, want %q", name, reason, want)
		}
	}
}

// FuzzForm: whatever the body, a form that is taken is whole and signed for the provider,
// and its key is one that the client's policy allows.
func FuzzForm(f *testing.F) {
	s := newStage(f)
	r, body := htmlForm{fields: [][2]string{{"key", "k"}, {"Content-Type", "text/plain"}}, file: "file", tail: "late"}.form(f, s.write)
	f.Add(body, true)
	f.Add(body[:100], false)
	f.Add(bytes.ReplaceAll(body, []byte("\r\n"), []byte("\n")), true)
	f.Fuzz(func(t *testing.T, body []byte, complete bool) {
		d, e := s.DecideBody(now, r, body, complete)
		switch {
		case e == extproc.NeedBody && complete, e == nil && d.Body == nil:
			t.Fatalf("%+v", d)
		case e == nil:
			fields, _, _ := sent(t, d)
			if want := signPolicy(protocoltest.ProviderSecret("papers"), now.Format("20060102"), "eu-central-1", fields["policy"]); fields["x-amz-signature"] != want {
				t.Error("not signed")
			}
			if strings.Contains(fmt.Sprint(fields), s.write.ID) {
				t.Error("the client's credential is left")
			}
		}
	})
}
