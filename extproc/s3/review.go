package s3

import (
	"bytes"
	"compress/gzip"
	"encoding/xml"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"keybridge/extproc"
)

// refusals are the codes with which a provider refuses a credential or what was signed
// with it, and not what was asked for: "Error responses", Amazon S3 API Reference, and
// "Common errors" of AWS; InvalidTokenId is MinIO's; UserSuspended Ceph's;
// AuthenticationRequired Google Cloud Storage's ("HTTP status and error codes for XML");
// Unauthorized is Cloudflare R2's. A client is to blame for none of them: of all that
// they are about, nothing of the client's gets to the provider.
var refusals = map[string]bool{
	"AccountProblem":               true,
	"AuthenticationRequired":       true,
	"AuthorizationHeaderMalformed": true, // another region than the connector's, too
	"CredentialsNotSupported":      true,
	"ExpiredToken":                 true,
	"IncompleteSignature":          true,
	"InvalidAccessKeyId":           true,
	"InvalidClientTokenId":         true,
	"InvalidSecurity":              true,
	"InvalidToken":                 true,
	"InvalidTokenId":               true,
	"MissingAuthenticationToken":   true,
	"MissingSecurityHeader":        true,
	"NotSignedUp":                  true,
	"OptInRequired":                true,
	"RequestExpired":               true,
	"RequestTimeTooSkewed":         true, // our clock, or the provider's
	"SignatureDoesNotMatch":        true,
	"TokenRefreshRequired":         true,
	"Unauthorized":                 true,
	"UnauthorizedAccess":           true,
	"UnrecognizedClientException":  true,
	"UserSuspended":                true,
}

// Codes of refusals that the provider did not name, or not with one of refusals.
const (
	codeOther      = "other"
	codeNoBody     = "no_body"
	codeUnreadable = "unreadable"
)

// RefusalCodes implements extproc.Reviewer.
func (*Protocol) RefusalCodes() []string {
	codes := []string{codeOther, codeNoBody, codeUnreadable}
	for code := range refusals {
		codes = append(codes, code)
	}
	slices.Sort(codes)
	return codes
}

// minioCode is where MinIO has the code of its answers to HEAD.
const minioCode = "x-minio-error-code"

const (
	// maxDocument bounds an error document. Those that repeat what was signed, twice as
	// text and as hex, hold 8 KiB of headers four times.
	maxDocument = 64 << 10
	// minNamed is the length from which an access key id is looked for in what is no error
	// document: those of AWS have that many characters and more (IAM API Reference,
	// AccessKey), and a shorter one may be a word.
	minNamed = 16
)

// Review implements extproc.Reviewer: it tells refusals of the bridge's own signature
// from what the provider has to say to the client, which passes.
//
// Without a body nothing tells one from the other, but for the status 401 and a header of
// MinIO's. Such an answer passes unless the credential is known to be refused; it has
// nothing to show. A body that cannot be read does not pass.
func (*Protocol) Review(a *extproc.Answer) *extproc.Refusal {
	r := &extproc.Refusal{KeyID: keyIDOf(a.Sent("authorization")), Bucket: bucketOf(a.Path)}
	document, ok := decoded(a)
	code := codeNoBody
	switch {
	case !ok:
		code = codeUnreadable
	case len(document) > 0:
		code = refusalIn(document, r.KeyID)
	case a.Header(minioCode) != "":
		code = ""
		if refusals[a.Header(minioCode)] {
			code = a.Header(minioCode)
		}
	}
	if a.Status == 401 && !refusals[code] {
		code = codeOther
	}
	switch code {
	case "":
		return nil
	case codeUnreadable:
		r.Instead = failUnreadable.answer(head(a))
	case codeNoBody:
		r.Pass = true
		r.Instead = failOurs.answer(head(a))
	default:
		r.Certain = true
		r.Instead = failOurs.answer(head(a))
	}
	r.Code = code
	return r
}

// head is a request of which an answer needs no more than whether it is a HEAD: the
// provider's path is not the client's.
func head(a *extproc.Answer) *extproc.Request {
	return extproc.NewRequest(true, extproc.Header{Name: ":method", Value: a.Method})
}

// keyIDOf is the access key id in an Authorization header of sign.
func keyIDOf(authorization string) string {
	_, rest, _ := strings.Cut(authorization, "Credential=")
	id, _, _ := strings.Cut(rest, "/")
	return id
}

// bucketOf is the bucket in the path that sign made.
func bucketOf(path string) string {
	path, _, _ = strings.Cut(path, "?")
	bucket, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return bucket
}

// decoded is an answer's body, unless it is too long or encoded in some other way.
func decoded(a *extproc.Answer) ([]byte, bool) {
	switch strings.ToLower(a.Header("content-encoding")) {
	case "", "identity":
		return a.Body, len(a.Body) <= maxDocument
	case "gzip", "x-gzip":
		if len(a.Body) == 0 {
			return nil, true
		}
		z, err := gzip.NewReader(bytes.NewReader(a.Body))
		if err != nil {
			return nil, false
		}
		document, err := io.ReadAll(io.LimitReader(z, maxDocument+1))
		return document, err == nil && len(document) <= maxDocument
	}
	return nil, false
}

// refusalIn is the code with which a document refuses the credential with that access
// key id, empty if it does not.
func refusalIn(document []byte, keyID string) string {
	code, repeats, ok := readError(document)
	mentions := func(word string) bool { return bytes.Contains(document, []byte(word)) }
	switch {
	case code != "":
		return code
	case ok && repeats:
		return codeOther
	case ok: // though it may name the user: the provider denies that one something
		return ""
	case !utf8.Valid(document), bytes.IndexByte(document, 0) >= 0: // in another character set, for one
		return codeUnreadable
	case slices.ContainsFunc(signatureParts, mentions), len(keyID) >= minNamed && mentions(keyID):
		return codeOther
	}
	return "" // a page of some proxy, or a text
}

// signatureParts are the elements in which providers repeat what was signed ("Troubleshoot
// SignatureDoesNotMatch", Amazon S3 User Guide; versitygw and MinIO have the same).
var signatureParts = []string{"AWSAccessKeyId", "StringToSign", "SignatureProvided", "CanonicalRequest"}

// readError reads an error document: the code of a refusal, if it has one, and whether
// it repeats what was signed. It is not ok if it is no such document, or not all of it.
func readError(document []byte) (code string, repeats, ok bool) {
	d := xml.NewDecoder(bytes.NewReader(document))
	// Names and codes are ASCII, whatever is declared.
	d.CharsetReader = func(_ string, input io.Reader) (io.Reader, error) { return input, nil }
	root, text := "", ""
	for {
		token, err := d.Token()
		if err != nil {
			return "", repeats, err == io.EOF && strings.HasPrefix(root, "Error") //nolint:errorlint // a Decoder returns it bare
		}
		switch t := token.(type) {
		case xml.StartElement:
			if root == "" {
				root = t.Name.Local
			}
			repeats = repeats || slices.Contains(signatureParts, t.Name.Local)
			text = ""
		case xml.CharData:
			text += string(t)
		case xml.EndElement:
			if code := strings.TrimSpace(text); t.Name.Local == "Code" && refusals[code] {
				return code, repeats, true
			}
		}
	}
}
