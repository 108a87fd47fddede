package s3_test

import (
	"slices"
	"testing"

	"keybridge/extproc"
)

// Servers behind CGI or WSGI take x_amz_acl for x-amz-acl: what no rule here has
// looked at must not get there under another spelling.
func TestUnderscoreHeadersStayBehind(t *testing.T) {
	s := newStage(t)
	for _, name := range []string{"x_amz_copy_source", "x_amz-acl", "cf_create_bucket_if_missing", "x_forwarded_for", "proxy_authorization"} {
		r := with(call{method: "PUT", path: "/photos/cat.jpg"}.sign(t, s.write), extproc.Header{Name: name, Value: "/foreign/secret"})
		d, e := s.Decide(now, r)
		if e != nil {
			continue // refused is as good
		}
		if !slices.Contains(d.Remove, name) {
			t.Errorf("%s reaches the provider", name)
		}
	}
}
