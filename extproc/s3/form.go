package s3

import (
	"bytes"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/textproto"
	"path"
	"slices"
	"strings"
	"time"

	"keybridge/extproc"
	"keybridge/extproc/credential"
	"keybridge/extproc/grant"
)

const (
	// maxForm bounds a form, which is held as a whole: what comes after the file must not
	// reach a provider that does not ignore it as S3 does.
	maxForm = 2 << 20
	// maxFields bounds what comes before the file ("POST Object", Amazon S3 API Reference:
	// 20 KB), and so what is held of a form before its signature was seen.
	maxFields = 20 << 10
	// maxFormAge is how old x-amz-date may be, whatever the policy says: as S3 has it,
	// according to versitygw's suite.
	maxFormAge = time.Hour
)

var (
	failEnclosure = failure{"PreconditionFailed", 412, "At least one of the pre-conditions you specified did not hold.", "form_enclosure"}
	failPOST      = failure{"MalformedPOSTRequest", 400, "The body of your POST request is not well-formed multipart/form-data.", "malformed_form"}
	failFormSize  = failure{"EntityTooLarge", 400, "A form of more than 2097152 bytes is not supported here. Upload with PUT, which presigned URLs allow too.", "form_too_large"}
	failFields    = failure{"MaxPostPreDataLengthExceeded", 400, "Your POST request fields preceding the upload file were too large.", "form_fields"}
	failField     = failure{"NotImplemented", 501, "A form field you provided implies functionality that is not implemented.", "unknown_field"}
	failFormToken = failure{"InvalidToken", 400, "The provided token is malformed or otherwise invalid.", "form_token"}
)

// form is an upload by HTML form ("POST Object", Amazon S3 API Reference). Its policy is
// what is signed, and it names the credential; so the provider gets a form that is made
// anew: the client's fields, file and conditions, and in place of the client's
// credential, date and signature those of the connector.
type form struct {
	fields   []formField
	filename string
	fileType string // Content-Type of the file's part
	file     []byte
}

type formField struct{ name, value string }

func (f *form) get(name string) (string, bool) {
	i := slices.IndexFunc(f.fields, func(x formField) bool { return x.name == name })
	if i < 0 {
		return "", false
	}
	return f.fields[i].value, true
}

// isForm says that a request nobody signed otherwise is a form.
func isForm(r *extproc.Request) bool {
	if r.Method != "POST" || r.Values("authorization") != 0 {
		return false
	}
	_, query, _ := cut(r.Path)
	return query == "" && strings.HasPrefix(strings.ToLower(r.Header("content-type")), "multipart/form-data")
}

// enough, as a request's State, is how long the body of a form must be before it is worth
// another look: a client that sends it byte by byte must not have it read so often. Once
// the signature proved right the rest is waited for.
type enough int

func (n enough) reached(body []byte, complete bool) bool {
	return complete || len(body) >= int(n) || len(body) > maxForm
}

// decideForm reads the fields, and refuses for what they say before the file has come.
func (p *Protocol) decideForm(now time.Time, index *grant.Index, s *scratch, r *extproc.Request, body []byte, complete bool) (*extproc.Decision, *extproc.Error) {
	bucket, virtual := p.domains.bucket(r.Authority)
	_ = s.query.parse("") // it has none
	if f := s.parse(r, bucket, virtual); f != nil {
		return nil, s.refuse(f, nil, r)
	}
	_, params, err := mime.ParseMediaType(r.Header("content-type"))
	switch {
	case s.target.bucket == "" || s.target.key != "":
		return nil, s.refuse(&failMethod, nil, r)
	case r.Values("content-type") != 1 || err != nil || params["boundary"] == "":
		return nil, failPOST.answer(r)
	case r.Values("content-encoding") > 0:
		return nil, failHeader.answer(r)
	case s.found.twoHosts:
		return nil, s.refuse(&failRepeated, nil, r)
	case len(body) > maxForm:
		return nil, failFormSize.answer(r)
	}
	if f := s.unsigned(r.Headers()); f != nil {
		return nil, s.refuse(f, nil, r)
	}
	in, whole, f := parseForm(body, params["boundary"])
	switch {
	case f == nil && in == nil && complete:
		return nil, failPOST.answer(r)
	case f == nil && in == nil:
		r.State = enough(2 * len(body))
		return nil, extproc.NeedBody
	case f != nil:
		return nil, f.answer(r)
	}
	a, policy, e := in.verify(now, index, r)
	if e != nil {
		return nil, e
	}
	key := index.Lookup(a.key)
	c, f := s.authoriseForm(in, key, r)
	switch {
	case f != nil:
		return nil, s.refuse(f, &a, r)
	case !whole && complete:
		return nil, failPOST.answer(r)
	case !complete:
		r.State = enough(maxForm + 1)
		return nil, extproc.NeedBody
	}
	d, f := s.signForm(now, in, policy, c, r)
	if f != nil {
		return nil, f.answer(r)
	}
	d.Key = key.Record()
	return d, nil
}

// parseForm reads a form as far as it is there: nil until the file begins, and whole once
// the file has ended. Nothing after the file counts.
func parseForm(body []byte, boundary string) (in *form, whole bool, f *failure) {
	if !bytes.HasPrefix(body, []byte("--" + boundary)[:min(len(body), 2+len(boundary))]) { // no preamble
		return nil, false, &failPOST
	}
	in = &form{}
	read := bytes.NewReader(body)
	parts := multipart.NewReader(read, boundary)
	size := 0
	for {
		part, err := parts.NextRawPart()
		if err != nil {
			return missing(len(body))
		}
		name := strings.ToLower(part.FormName())
		if name == "" || part.Header.Get("Content-Transfer-Encoding") != "" {
			return nil, false, &failPOST
		}
		if name == "file" {
			in.filename, in.fileType = filename(part), part.Header.Get("Content-Type")
			in.file, err = io.ReadAll(part)
			return in, err == nil, nil
		}
		value, err := io.ReadAll(io.LimitReader(part, maxFields+1))
		if size += len(name) + len(value); size > maxFields {
			return nil, false, &failFields
		}
		if err != nil {
			return missing(len(body))
		}
		if _, twice := in.get(name); twice {
			return nil, false, &failPOST
		}
		in.fields = append(in.fields, formField{name, string(value)})
	}
}

// missing is a form whose file has not begun: there is more to come, or it is none.
func missing(size int) (*form, bool, *failure) {
	if size > 2*maxFields { // with the lines around the fields
		return nil, false, &failFields
	}
	return nil, false, nil
}

// filename is the last segment of the file's name, as browsers of old sent paths.
func filename(part *multipart.Part) string {
	_, params, err := mime.ParseMediaType(part.Header.Get("Content-Disposition"))
	if err != nil {
		return ""
	}
	name := strings.ReplaceAll(params["filename"], `\`, "/")
	if name = path.Base(name); name == "." || name == "/" {
		return ""
	}
	return name
}

// verify checks who signed the policy, and that it has not expired. The answer's details
// are S3's for forms.
func (f *form) verify(now time.Time, index *grant.Index, r *extproc.Request) (a authorization, policy string, e *extproc.Error) {
	var credentials, mechanism string
	signed := 0
	for _, x := range []struct {
		name string
		to   *string
	}{
		{"policy", &policy},
		{"x-amz-algorithm", &mechanism},
		{"x-amz-credential", &credentials},
		{"x-amz-date", &a.date},
		{"x-amz-signature", &a.signature},
	} {
		value, ok := f.get(x.name)
		if ok {
			signed++
		} else if e == nil {
			e = missingField(r, x.name)
		}
		*x.to = value
	}
	switch key, _ := f.get("key"); {
	case key == "":
		return a, "", missingField(r, "key")
	case !staysInside(key):
		return a, "", failClimbs.answer(r)
	case signed == 0:
		return a, "", failAnonymous.answer(r)
	case e != nil:
		return a, "", e
	case mechanism != algorithm:
		return a, "", argument(&failure{"InvalidArgument", 400, "Only AWS4-HMAC-SHA256 is supported", "malformed_form"}, r, "X-Amz-Algorithm", mechanism)
	}
	sent, ok := parseDate(a.date)
	if !ok {
		return a, "", argument(&failure{"InvalidArgument", 400, "X-Amz-Date must be formated via ISO8601 Long format", "malformed_form"}, r, "X-Amz-Date", a.date)
	}
	wrong := a.parseCredential(credentials)
	if wrong == "" && a.day != a.date[:8] {
		wrong = "the date is not the same as X-Amz-Date."
	}
	if wrong != "" {
		return a, "", argument(&failure{"InvalidArgument", 400, wrong, "malformed_form"}, r, "x-amz-credential", credentials)
	}
	key := index.Lookup(a.key)
	switch {
	case key == nil || key.Use() != grant.UseStorageKey || !key.Valid(now):
		return a, "", failUnknownKey.answer(r, "AWSAccessKeyId", a.key[:min(len(a.key), maxDetail)])
	case now.Sub(sent) > maxFormAge:
		return a, "", failPolicyExpired.answer(r)
	case sent.Sub(now) > maxSkew:
		return a, "", skewed(r, sent.Format(isoBasic), now.UTC().Format(time.RFC3339))
	}
	var mac [32]byte
	var digits [64]byte
	if key.Secret.Sign(&mac, credential.Scope{Day: a.day, Region: a.region, Service: "s3"}, []byte(policy)) != nil {
		return a, "", failSealed.answer(r)
	}
	hex.Encode(digits[:], mac[:])
	if subtle.ConstantTimeCompare(digits[:], []byte(a.signature)) != 1 {
		return a, "", failSignature.answer(r)
	}
	return a, policy, nil
}

func missingField(r *extproc.Request, name string) *extproc.Error {
	return argument(&failure{
		"InvalidArgument", 400,
		"Bucket POST must contain a field named '" + name + "'.  If it is specified, please check the order of the fields.", "malformed_form",
	}, r, name, "")
}

// authoriseForm holds a form to what its key may put: as the PutObject that it is, whose
// headers are its fields.
func (s *scratch) authoriseForm(in *form, key *grant.Key, r *extproc.Request) (*grant.Connector, *failure) {
	for i := range in.fields {
		x := &in.fields[i]
		if strings.ContainsAny(x.value, "\r\n\x00") && x.name != "tagging" { // most become headers
			return nil, &failPOST
		}
		switch x.name {
		case "key":
			x.value = strings.ReplaceAll(x.value, "${filename}", in.filename)
			if !staysInside(x.value) || x.value == "" {
				return nil, &failClimbs
			}
			s.target.key = x.value
			continue
		case "bucket":
			if x.value != s.target.bucket {
				return nil, &failArgument
			}
			continue
		case "acl":
			s.found.config = true
			continue
		case "awsaccesskeyid", "signature":
			return nil, &failSigV2
		case sessionToken: // keys of repositories have none
			return nil, &failFormToken
		case "policy", "x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-signature",
			"content-type", "cache-control", "content-disposition", "content-encoding", "content-language", "expires",
			"success_action_redirect", "redirect", "success_action_status", "tagging":
			continue
		}
		switch {
		case strings.HasPrefix(x.name, "x-ignore-"):
		case !strings.HasPrefix(x.name, "x-amz-"), s.found.note(x.name, x.value) == classCopy:
			return nil, &failField
		}
	}
	put := extproc.NewRequest(false, extproc.Header{Name: ":method", Value: "PUT"}, extproc.Header{Name: ":path", Value: r.Path}, extproc.Header{Name: ":authority", Value: r.Authority})
	return s.authorise(key, put)
}

// signForm makes the provider's form.
func (s *scratch) signForm(now time.Time, in *form, policy string, c *grant.Connector, r *extproc.Request) (*extproc.Decision, *failure) {
	d := r.Decision()
	date := string(appendDate(nil, now))
	scope := credential.Scope{Day: date[:8], Region: c.Region, Service: "s3"}
	ours := []formField{
		{"x-amz-algorithm", algorithm},
		{"x-amz-credential", c.Credential.Binding().Key + "/" + scope.Day + "/" + c.Region + "/s3/aws4_request"},
		{"x-amz-date", date},
	}
	token := c.Credential.Token()
	if token.Len() > 0 {
		secret := token.Bytes()
		if secret == nil { // wiped meanwhile
			return nil, &failSealed
		}
		ours = append(ours, formField{sessionToken, string(secret)})
	}
	again, f := renewPolicy(now, policy, in, ours)
	if f != nil {
		return nil, f
	}
	var mac [32]byte
	if c.Credential.Sign(&mac, scope, []byte(again)) != nil {
		return nil, &failSealed
	}
	c.Credential.Keep(scope)
	ours = append(ours, formField{"policy", again}, formField{"x-amz-signature", hex.EncodeToString(mac[:])})

	var body bytes.Buffer
	body.Grow(len(in.file) + 16*maxFields) // a token is to be copied no more than it must
	w := multipart.NewWriter(&body)
	_ = w.SetBoundary("keybridge" + rand.Text()) // of 128 random bits: in no file
	for _, x := range in.fields {
		switch x.name {
		case "policy", "x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-signature":
		default:
			_ = w.WriteField(x.name, x.value) // a bytes.Buffer takes everything
		}
	}
	for _, x := range ours {
		_ = w.WriteField(x.name, x.value)
	}
	file := textproto.MIMEHeader{"Content-Disposition": {`form-data; name="file"; filename="` + plainName(in.filename) + `"`}}
	if in.fileType != "" && validValue(in.fileType) {
		file.Set("Content-Type", in.fileType)
	}
	part, err := w.CreatePart(file)
	if err == nil {
		_, err = part.Write(in.file)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return nil, &failPOST
	}
	if token.Len() > 0 && token.Bytes() == nil { // wiped while it was copied
		clear(body.Bytes())
		return nil, &failSealed
	}
	d.Cluster, d.Authority, d.Body = c.Cluster, c.Authority, body.Bytes()
	d.Path = d.Bytes([]byte("/"), encodeBucket(s.target.bucket))
	d.Set = append(d.Set, extproc.Header{Name: "content-type", Value: w.FormDataContentType()})
	d.Remove = append(d.Remove, s.drop...)
	return d, nil
}

// plainName is a file name that needs no quoting in a header.
func plainName(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '"' || r == '\\' {
			return '_'
		}
		return r
	}, s)
}

func encodeBucket(bucket string) []byte {
	var b []byte
	for i := 0; i < len(bucket); i++ {
		b = encode(b, bucket[i], true)
	}
	return b
}
