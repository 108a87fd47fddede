package s3_test

import (
	"bytes"
	"compress/gzip"
	"encoding/xml"
	"slices"
	"strings"
	"testing"

	"keybridge/extproc"
	"keybridge/extproc/grant"
	"keybridge/extproc/s3"
)

const reviewedKey = "PROVIDERKEYID0001"

// document is an S3 error document with a code and further elements.
func document(code, more string) string {
	return `<?xml version="1.0" encoding="UTF-8"?>` + "\n<Error><Code>" + code + "</Code><Message>words</Message>" + more + "<RequestId>1</RequestId></Error>"
}

// What versitygw answers, shortened in its hex.
var verbose = document("SignatureDoesNotMatch", "<AWSAccessKeyId>"+reviewedKey+"</AWSAccessKeyId><StringToSign>AWS4-HMAC-SHA256&#xA;20261125T125959Z</StringToSign>"+
	"<SignatureProvided>33747f64</SignatureProvided><StringToSignBytes>41 57</StringToSignBytes><CanonicalRequest>GET&#xA;/bkt/k</CanonicalRequest><CanonicalRequestBytes>47 45</CanonicalRequestBytes>")

func zipped(s string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write([]byte(s))
	_ = z.Close()
	return b.String()
}

// answerTo is a provider's answer to a request that was signed with reviewedKey.
func answerTo(method string, status int, body string, header ...string) *extproc.Answer {
	headers := map[string]string{}
	for i := 0; i+1 < len(header); i += 2 {
		headers[header[i]] = header[i+1]
	}
	return extproc.NewAnswer(extproc.Answer{Status: status, Method: method, Path: "/bkt/a/k?versionId=1", Body: []byte(body)}, headers, map[string]string{
		"authorization": "AWS4-HMAC-SHA256 Credential=" + reviewedKey + "/20261125/us-east-1/s3/aws4_request,SignedHeaders=host;x-amz-date,Signature=00",
	})
}

func TestReview(t *testing.T) {
	p := s3.New(&grant.Live{}, s3.Options{})
	codes := p.RefusalCodes()
	const withheld = "cannot read"
	for name, c := range map[string]struct {
		a    *extproc.Answer
		code string // empty: it passes
		pass bool   // unless the credential is known to be refused
		says string
	}{
		"versitygw":               {a: answerTo("GET", 403, verbose), code: "SignatureDoesNotMatch"},
		"MinIO":                   {a: answerTo("PUT", 403, document("InvalidAccessKeyId", "<Key>k</Key><BucketName>bkt</BucketName><Resource>/bkt/k</Resource><Region>us-east-1</Region>")), code: "InvalidAccessKeyId"},
		"MinIO, token":            {a: answerTo("GET", 403, document("InvalidTokenId", "")), code: "InvalidTokenId"},
		"expired token":           {a: answerTo("POST", 400, document("ExpiredToken", "<Token-0>x</Token-0>")), code: "ExpiredToken"},
		"another region":          {a: answerTo("GET", 400, document("AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>")), code: "AuthorizationHeaderMalformed"},
		"skew":                    {a: answerTo("GET", 403, document("RequestTimeTooSkewed", "")), code: "RequestTimeTooSkewed"},
		"with a namespace":        {a: answerTo("GET", 403, `<Error xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Code>InvalidToken</Code></Error>`), code: "InvalidToken"},
		"with a prefix":           {a: answerTo("GET", 403, `<s:Error xmlns:s="x"><s:Code>InvalidToken</s:Code></s:Error>`), code: "InvalidToken"},
		"within another element":  {a: answerTo("GET", 403, "<ErrorResponse><Error><Type>Sender</Type><Code>InvalidClientTokenId</Code></Error></ErrorResponse>"), code: "InvalidClientTokenId"},
		"code in pieces":          {a: answerTo("GET", 403, "<Error><Code> Signature<!-- x --><![CDATA[DoesNot]]>M&#97;tch\n</Code></Error>"), code: "SignatureDoesNotMatch"},
		"second code":             {a: answerTo("GET", 403, "<Error><Code>AccessDenied</Code><Code>InvalidToken</Code></Error>"), code: "InvalidToken"},
		"cut off":                 {a: answerTo("GET", 403, verbose[:200]), code: "SignatureDoesNotMatch"},
		"other character set":     {a: answerTo("GET", 403, `<?xml version="1.0" encoding="ISO-8859-1"?><Error><Code>InvalidToken</Code></Error>`), code: "InvalidToken"},
		"compressed":              {a: answerTo("GET", 403, zipped(verbose), "content-encoding", "gzip"), code: "SignatureDoesNotMatch"},
		"compressed, upper case":  {a: answerTo("GET", 403, zipped(verbose), "content-encoding", "GZIP"), code: "SignatureDoesNotMatch"},
		"401 of any code":         {a: answerTo("GET", 401, document("AccessDenied", "")), code: "other"},
		"401 of a known code":     {a: answerTo("GET", 401, document("Unauthorized", "")), code: "Unauthorized"},
		"401 without a body":      {a: answerTo("HEAD", 401, ""), code: "other"},
		"401 that cannot be read": {a: answerTo("GET", 401, "x", "content-encoding", "br"), code: "other"},
		"unknown code, repeats":   {a: answerTo("GET", 403, document("BadSignature", "<CanonicalRequest>GET</CanonicalRequest>")), code: "other"},
		"cut off, names the id":   {a: answerTo("GET", 403, "<Error><Code>AccessDenied</Code><Resource>"+reviewedKey), code: "other"},
		"text that names the id":  {a: answerTo("GET", 403, "no such key: "+reviewedKey), code: "other"},
		"page that repeats":       {a: answerTo("GET", 403, "<html><br>SignatureDoesNotMatch<li>StringToSign: AWS4"), code: "other"},
		"MinIO, HEAD":             {a: answerTo("HEAD", 403, "", "x-minio-error-code", "SignatureDoesNotMatch"), code: "SignatureDoesNotMatch"},

		"HEAD":              {a: answerTo("HEAD", 403, ""), code: "no_body", pass: true},
		"HEAD, 400":         {a: answerTo("HEAD", 400, ""), code: "no_body", pass: true},
		"empty body":        {a: answerTo("GET", 403, ""), code: "no_body", pass: true},
		"empty, compressed": {a: answerTo("GET", 403, "", "content-encoding", "gzip"), code: "no_body", pass: true},

		"long":                     {a: answerTo("GET", 403, document("AccessDenied", strings.Repeat("x", 64<<10))), code: "unreadable", says: withheld},
		"long once unpacked":       {a: answerTo("GET", 403, zipped(strings.Repeat("x", 64<<10+1)), "content-encoding", "gzip"), code: "unreadable", says: withheld},
		"brotli":                   {a: answerTo("GET", 403, "x", "content-encoding", "br"), code: "unreadable", says: withheld},
		"compressed twice":         {a: answerTo("GET", 403, zipped(zipped(verbose)), "content-encoding", "gzip,gzip"), code: "unreadable", says: withheld},
		"not compressed after all": {a: answerTo("GET", 403, verbose, "content-encoding", "gzip"), code: "unreadable", says: withheld},
		"compressed, cut off":      {a: answerTo("GET", 403, zipped(verbose)[:50], "content-encoding", "gzip"), code: "unreadable", says: withheld},
		"UTF-16":                   {a: answerTo("GET", 403, "\xff\xfe<\x00E\x00r\x00"), code: "unreadable", says: withheld},
		"UTF-16 without a mark":    {a: answerTo("GET", 403, "<\x00E\x00r\x00r\x00"), code: "unreadable", says: withheld},

		"denied":              {a: answerTo("GET", 403, document("AccessDenied", ""))},
		"denied, compressed":  {a: answerTo("GET", 403, zipped(document("AccessDenied", "")), "content-encoding", "gzip")},
		"denied to somebody":  {a: answerTo("GET", 403, document("AccessDenied", "<Message>User: arn:aws:iam::123456789012:user/x is not authorized to perform: s3:GetObject</Message>"))},
		"denied to us":        {a: answerTo("GET", 403, document("AccessDenied", "<Message>User: arn:aws:iam:::user/"+reviewedKey+" is not authorized to perform: s3:PutObject</Message>"))}, // versitygw
		"disabled resource":   {a: answerTo("GET", 403, document("AllAccessDisabled", ""))},
		"archived":            {a: answerTo("GET", 403, document("InvalidObjectState", "<StorageClass>GLACIER</StorageClass>"))},
		"payload hash":        {a: answerTo("PUT", 400, document("XAmzContentSHA256Mismatch", "<ClientComputedContentSHA256>e3b0</ClientComputedContentSHA256><S3ComputedContentSHA256>2cf2</S3ComputedContentSHA256>"))},
		"digest":              {a: answerTo("PUT", 400, document("BadDigest", "<CalculatedDigest>a</CalculatedDigest><ExpectedDigest>b</ExpectedDigest>"))},
		"code as a message":   {a: answerTo("GET", 400, "<Error><Code>InvalidArgument</Code><Message>SignatureDoesNotMatch</Message></Error>")},
		"code as a key":       {a: answerTo("GET", 400, document("InvalidRequest", "<Key>StringToSign</Key>"))},
		"page of a proxy":     {a: answerTo("GET", 403, "<html><head><title>403 Forbidden</title></head>")},
		"text":                {a: answerTo("GET", 403, "Forbidden")},
		"JSON":                {a: answerTo("GET", 400, `{"code":"InvalidToken"}`)},
		"MinIO, HEAD, denied": {a: answerTo("HEAD", 403, "", "x-minio-error-code", "AccessDenied")},
	} {
		t.Run(name, func(t *testing.T) {
			r := p.Review(c.a)
			if r == nil || c.code == "" {
				if r != nil || c.code != "" {
					t.Fatalf("got %+v, want code %q", r, c.code)
				}
				return
			}
			if r.Code != c.code || r.Pass != c.pass || r.Certain != (c.code != "unreadable" && c.code != "no_body") || !slices.Contains(codes, r.Code) {
				t.Errorf("got %+v, want code %q", r, c.code)
			}
			if r.KeyID != reviewedKey || r.Bucket != "bkt" || r.Secret != "" {
				t.Errorf("asked with %q for %q", r.KeyID, r.Bucket)
			}
			if r.Instead.Status != 503 {
				t.Errorf("status %d", r.Instead.Status)
			}
			if c.a.Method == "HEAD" {
				if len(r.Instead.Body) != 0 {
					t.Errorf("a body for HEAD: %s", r.Instead.Body)
				}
				return
			}
			says := c.says
			if says == "" {
				says = "Your access key is fine"
			}
			var e struct{ Code, Message string }
			if err := xml.Unmarshal(r.Instead.Body, &e); err != nil || e.Code != "ServiceUnavailable" || !strings.Contains(e.Message, says) {
				t.Errorf("%v: %s", err, r.Instead.Body)
			}
			for _, leak := range []string{reviewedKey, "bkt", "Signature", "AWS4"} {
				if bytes.Contains(r.Instead.Body, []byte(leak)) {
					t.Errorf("%q leaks: %s", leak, r.Instead.Body)
				}
			}
		})
	}
}

// An access key id that may be a word does not make a refusal of what mentions it.
func TestReviewShortKeyID(t *testing.T) {
	a := extproc.NewAnswer(extproc.Answer{Status: 403, Method: "GET", Path: "/minioadmin/k", Body: []byte("Forbidden: minioadmin")}, nil,
		map[string]string{"authorization": "AWS4-HMAC-SHA256 Credential=minioadmin/20261125/us-east-1/s3/aws4_request"})
	if r := s3.New(&grant.Live{}, s3.Options{}).Review(a); r != nil {
		t.Errorf("got %+v", r)
	}
}

// FuzzReview: no document makes it fail, nor show more than its own words; and one that
// encoding/xml reads as an error with a code of a refusal is one.
func FuzzReview(f *testing.F) {
	for _, s := range []string{verbose, zipped(verbose), document("AccessDenied", ""), document("ExpiredToken", "")[:60], "Forbidden", "", "<Error><Code>a</Code><Code>InvalidToken</Code>"} {
		f.Add(403, s, "")
		f.Add(400, s, "gzip")
	}
	p := s3.New(&grant.Live{}, s3.Options{})
	codes := p.RefusalCodes()
	f.Fuzz(func(t *testing.T, status int, body, encoding string) {
		r := p.Review(answerTo("GET", status, body, "content-encoding", encoding))
		var e struct {
			XMLName xml.Name `xml:"Error"`
			Code    string
		}
		if encoding == "" && xml.Unmarshal([]byte(body), &e) == nil && slices.Contains(codes, e.Code) && r == nil {
			t.Fatalf("passed: %q", body)
		}
		if r == nil {
			return
		}
		if !slices.Contains(codes, r.Code) || r.Instead == nil || r.Instead.Status != 503 {
			t.Fatalf("%+v", r)
		}
		if want := p.Review(answerTo("GET", 401, "")).Instead; r.Certain && len(r.Instead.Body) != len(want.Body) {
			t.Fatalf("%s", r.Instead.Body)
		}
	})
}

func BenchmarkReview(b *testing.B) {
	p := s3.New(&grant.Live{}, s3.Options{})
	for name, body := range map[string]string{"denied": document("AccessDenied", ""), "refused": verbose} {
		a := answerTo("GET", 403, body)
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				p.Review(a)
			}
		})
	}
}
